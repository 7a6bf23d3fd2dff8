"""Text of the synthetic population: topics, sentence variants per style, and contexts.

In an action, ``verb/past`` has the imperative and the past form; any two or more actions of a
subject make sense together as long as their order is kept. ``{s}`` is the subject, ``{task}`` the
task of the topic with the subject in it, ``{item}`` one of the aids of the topic.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """An everyday topic.

    Attributes:
        name: Name of the topic.
        homes: Names of the two raters who are at home in it.
        task: What the asker wants to do with a subject.
        asks: Prompts, with ``{s}`` for the subject.
        digital: Modern aids.
        traditional: Old-fashioned aids.
        subjects: Actions by subject.
    """

    name: str
    homes: tuple[str, str]
    task: str
    asks: tuple[str, ...]
    digital: tuple[str, ...]
    traditional: tuple[str, ...]
    subjects: dict[str, tuple[str, ...]]


TOPICS: tuple[Topic, ...] = (
    Topic(
        name="cooking",
        homes=("digital", "story"),
        task="make {s}",
        asks=(
            "How do I make {s} that my family will actually eat?",
            "Friends are coming over on Saturday and I promised them {s}. Where do I start?",
            "My last attempt at {s} went badly wrong. What should I change?",
            "I have never cooked {s} before. Can you talk me through it?",
            "What is a good way to prepare {s} in a tiny kitchen?",
            "It is my turn to cook on Thursday and I want to try {s}. Any advice?",
        ),
        digital=(
            "a recipe app with step timers",
            "a smart oven that sends alerts to the phone",
            "a connected kitchen scale with a screen",
        ),
        traditional=(
            "grandmother's handwritten recipe book",
            "a wooden spoon and a cast-iron pot",
            "the know-how of an old village cook",
        ),
        subjects={
            "a pot of bean chilli": (
                "soak/soaked the beans overnight",
                "brown/browned the onions slowly with cumin and smoked paprika",
                "leave/left the pot to simmer for two hours",
                "stir/stirred in a square of dark chocolate at the end",
            ),
            "a vegetable lasagne": (
                "roast/roasted the courgettes and peppers until soft and brown",
                "cook/cooked the tomato sauce down until thick",
                "layer/layered the pasta sheets with ricotta and spinach",
                "rest/rested the dish for fifteen minutes before cutting",
            ),
            "a roast chicken": (
                "salt/salted the bird the night before",
                "tuck/tucked half a lemon and some thyme inside",
                "roast/roasted the chicken breast side down for the first half hour",
                "rest/rested the meat under foil before carving",
            ),
            "a mild vegetable curry": (
                "toast/toasted the spices in a dry pan",
                "fry/fried ginger and garlic until fragrant",
                "add/added the potatoes well before the peas",
                "finish/finished the sauce with coconut milk and lime",
            ),
            "a loaf of crusty bread": (
                "weigh/weighed the flour and water on a scale",
                "leave/left the dough to rise overnight",
                "shape/shaped the loaf with floured hands",
                "bake/baked the loaf in a covered pot",
            ),
            "a mushroom risotto": (
                "keep/kept the stock hot in a second pan",
                "fry/fried the mushrooms separately until golden",
                "add/added the stock one ladle at a time",
                "beat/beat cold butter and parmesan in off the heat",
            ),
            "an apple crumble": (
                "peel/peeled a mix of sharp and sweet apples",
                "rub/rubbed the butter into the flour with cold fingers",
                "scatter/scattered oats and brown sugar over the top",
                "bake/baked the dish for forty minutes on the middle shelf",
            ),
        },
    ),
    Topic(
        name="travel",
        homes=("story", "playful"),
        task="plan {s}",
        asks=(
            "How should I plan {s}?",
            "We have finally booked the time off for {s}. What should we know before we go?",
            "I am torn about how to arrange {s}. What would you suggest?",
            "Could you help me get ready for {s} with two friends?",
            "What makes {s} go smoothly?",
            "My sister and I are dreaming of {s}. How do we turn it into a plan?",
        ),
        digital=(
            "an offline map app and e-tickets",
            "a trip planner with live updates",
            "a translation app and a power bank",
        ),
        traditional=(
            "a paper map and a printed timetable",
            "a well-thumbed guidebook",
            "a fountain pen and a travel journal",
        ),
        subjects={
            "a weekend in Lisbon": (
                "pick/picked a room near a metro stop",
                "walk/walked through Alfama at sunrise",
                "save/saved one afternoon for the tile museum",
                "take/took the ferry across the river at dusk",
            ),
            "a train journey across Italy": (
                "choose/chose three cities instead of six",
                "reserve/reserved seats on the fast lines",
                "pack/packed one small bag for the overhead rack",
                "leave/left an hour between connections",
            ),
            "a trip to the Scottish coast": (
                "check/checked the ferry times for the islands",
                "bring/brought waterproof layers and a thermos",
                "plan/planned short drives with a beach in each",
                "ask/asked at the harbour about seal trips",
            ),
            "a week of island hopping in Greece": (
                "limit/limited the route to two islands",
                "sail/sailed in the morning on a calm sea",
                "rent/rented a scooter for the back roads",
                "keep/kept the last night free near the airport",
            ),
            "a drive along the Norwegian fjords": (
                "book/booked cabins long before the season",
                "budget/budgeted extra time for ferries and tunnels",
                "follow/followed the coast road from south to north",
                "stop/stopped at a waterfall every afternoon",
            ),
            "a city break in Prague": (
                "reserve/reserved seats for a concert in a church",
                "cross/crossed the Charles Bridge before breakfast",
                "ride/rode tram 22 up to the castle",
                "wander/wandered through the quiet side of the river",
            ),
            "a winter visit to Kyoto": (
                "learn/learned a few polite phrases beforehand",
                "buy/bought a bus card at the station",
                "visit/visited the golden temple on a snowy morning",
                "warm/warmed up in a bath house after dark",
            ),
        },
    ),
    Topic(
        name="fitness",
        homes=("digital", "steps"),
        task="work towards {s}",
        asks=(
            "I would like to work towards {s}. Where do I begin?",
            "How can I train for {s} without getting hurt?",
            "My goal this spring is {s}. What would you do?",
            "Every time I aim for {s} I give up after two weeks. What am I missing?",
            "A friend and I have set our sights on {s}. How should we train?",
            "At forty-five, can I still manage {s}, and how would I get there?",
        ),
        digital=(
            "a smartwatch with a heart-rate sensor",
            "a training app with video feedback",
            "wireless earbuds and a cloud dashboard",
        ),
        traditional=(
            "a paper diary and a wind-up stopwatch",
            "the simple drills of an old village coach",
            "grandfather's exercise booklet",
        ),
        subjects={
            "a first five-kilometre run": (
                "alternate/alternated two minutes of jogging with one of walking",
                "run/ran three times a week and never two days in a row",
                "lengthen/lengthened the longest outing a little each week",
                "rest/rested completely for two days before the big day",
            ),
            "ten proper push-ups": (
                "begin/began against a wall or a sturdy table",
                "lower/lowered the hands to a bench after two weeks",
                "practise/practised slow descents from the top position",
                "keep/kept the belly tight and the elbows close",
            ),
            "a mile of steady swimming": (
                "count/counted strokes on every length",
                "breathe/breathed out fully under the water",
                "break/broke the distance into sets of four lengths",
                "add/added one set every week",
            ),
            "flexible hips and hamstrings": (
                "warm/warmed up with ten minutes of brisk walking",
                "hold/held every stretch for a full minute",
                "stretch/stretched after exercise and not before",
                "repeat/repeated the pigeon pose on both sides every evening",
            ),
            "a hilly bike ride of fifty kilometres": (
                "raise/raised the saddle to the right height",
                "climb/climbed in an easy gear at a steady rhythm",
                "eat/ate something small every forty minutes",
                "ride/rode one longer route each Sunday",
            ),
            "a charity walk of twenty miles": (
                "break/broke in the boots on short local paths",
                "walk/walked briskly for an hour on four days a week",
                "test/tested the socks and the rucksack on a long day out",
                "drink/drank a little at every milestone",
            ),
            "a stronger back": (
                "practise/practised the plank for thirty seconds at a time",
                "lift/lifted light weights with a straight spine",
                "row/rowed gently twice a week",
                "note/noted every session in a small diary",
            ),
        },
    ),
    Topic(
        name="money",
        homes=("traditional", "steps"),
        task="set up {s}",
        asks=(
            "How do I set up {s} that lasts longer than a month?",
            "Payday is next week and I want {s}. What comes first?",
            "My partner and I have decided that we need {s}. How do we begin?",
            "I have never managed to keep {s} going. What would help?",
            "What are the basics of {s}?",
            "Could you explain how ordinary people organise {s}?",
        ),
        digital=(
            "a budgeting app with instant alerts",
            "an online dashboard that syncs with the bank",
            "a cloud spreadsheet with automatic charts",
        ),
        traditional=(
            "paper envelopes and a biscuit tin",
            "a leather-bound ledger",
            "a jar of coins and a pencil",
        ),
        subjects={
            "an emergency fund": (
                "work/worked out three months of fixed costs",
                "open/opened a separate account for the reserve",
                "schedule/scheduled a transfer for the day after payday",
                "top/topped the reserve up after every withdrawal",
            ),
            "a monthly budget": (
                "list/listed every regular bill",
                "sort/sorted last month's spending into five groups",
                "set/set a weekly limit for food and fun",
                "review/reviewed the figures on the last Sunday of the month",
            ),
            "a savings plan for a new car": (
                "fix/fixed a target price and a date",
                "divide/divided the sum by the number of months",
                "automate/automated the monthly transfer",
                "put/put any bonus straight into the pot",
            ),
            "a plan for paying off a credit card": (
                "write/wrote down the balance and the interest rate",
                "ask/asked the bank for a lower rate",
                "pay/paid a fixed amount above the minimum",
                "freeze/froze the card in the meantime",
            ),
            "a shared account for household bills": (
                "agree/agreed on which bills belong to the household",
                "split/split the total in proportion to income",
                "pay/paid the shares in on the same day each month",
                "meet/met for ten minutes every quarter to check the sums",
            ),
            "a pocket-money system for two children": (
                "choose/chose a fixed day and a fixed amount",
                "label/labelled three jars for spending, saving and giving",
                "explain/explained the rules at the kitchen table",
                "raise/raised the amount only on birthdays",
            ),
            "a simple record of freelance income": (
                "number/numbered every invoice in one list",
                "file/filed the receipts by month",
                "set/set a quarter of each payment aside for tax",
                "compare/compared the list with the bank statement every Friday",
            ),
        },
    ),
    Topic(
        name="software",
        homes=("steps", "formal"),
        task="sort out {s}",
        asks=(
            "I need to deal with {s}. What is the best approach?",
            "How would you go about sorting out {s}?",
            "At the office I have inherited {s}. Where do I start?",
            "Is there a sensible way to handle {s}?",
            "I am stuck with {s} and I am not very technical. Can you help?",
            "My father asked me to help him with {s}. How should we tackle it?",
        ),
        digital=(
            "an AI assistant with automated scripts",
            "a cloud service with a live dashboard",
            "a remote-support app",
        ),
        traditional=(
            "a printed manual and a pencil",
            "a handwritten logbook",
            "the patience of an old watchmaker",
        ),
        subjects={
            "a spreadsheet full of duplicate rows": (
                "save/saved a copy of the original file",
                "trim/trimmed stray spaces from every column",
                "sort/sorted the sheet by name and date",
                "delete/deleted the repeats with the built-in filter",
            ),
            "a laptop that starts slowly": (
                "remove/removed unneeded programs from the startup list",
                "free/freed a fifth of the disk",
                "install/installed the pending updates overnight",
                "replace/replaced the old hard drive with a solid-state one",
            ),
            "a photo library without any folders": (
                "gather/gathered every picture on one drive",
                "group/grouped the files by year and month",
                "tag/tagged the people who appear most often",
                "delete/deleted the blurred shots in short sessions",
            ),
            "a website that loads slowly on phones": (
                "measure/measured the loading time of the front page",
                "shrink/shrank the largest images",
                "switch/switched off needless plug-ins",
                "turn/turned on caching at the server",
            ),
            "a computer without any backup": (
                "copy/copied the documents to an external disk",
                "schedule/scheduled a nightly copy",
                "keep/kept a second copy at another address",
                "restore/restored one file as a test",
            ),
            "an inbox with nine thousand messages": (
                "archive/archived everything older than three months",
                "unsubscribe/unsubscribed from a dozen newsletters",
                "create/created rules for bills and receipts",
                "answer/answered the short messages twice a day",
            ),
            "a Wi-Fi network that keeps dropping": (
                "move/moved the router to the middle of the home",
                "change/changed the channel to a quieter one",
                "update/updated the firmware",
                "run/ran a cable to the busiest desk",
            ),
        },
    ),
    Topic(
        name="gardening",
        homes=("traditional", "story"),
        task="grow {s}",
        asks=(
            "How can I grow {s}?",
            "I moved house in spring and would love {s}. Is that realistic?",
            "Last year I failed with {s}. What should I try this time?",
            "What do I need to know about growing {s}?",
            "My daughter wants to help me grow {s}. How do we do it?",
            "When and how should I start growing {s}?",
        ),
        digital=(
            "a soil sensor linked to an app",
            "an automatic watering computer",
            "a plant-recognition app",
        ),
        traditional=(
            "an almanac and the phases of the moon",
            "a hand-forged hoe and a tin watering can",
            "the folk wisdom of old gardeners",
        ),
        subjects={
            "tomatoes on a balcony": (
                "choose/chose a bush variety for deep pots",
                "wait/waited for the last frost to pass",
                "pinch/pinched out the side shoots every week",
                "water/watered the soil at the same hour each day",
            ),
            "herbs on a kitchen windowsill": (
                "give/gave each herb a pot with drainage holes",
                "place/placed basil in the brightest corner",
                "snip/snipped the tips often to keep the plants bushy",
                "let/let the soil dry between waterings",
            ),
            "a wildflower strip by the fence": (
                "strip/stripped the turf and the richest soil",
                "mix/mixed the seed with dry sand",
                "sow/sowed on a still day in early autumn",
                "mow/mowed once a year after flowering",
            ),
            "climbing roses on a north wall": (
                "pick/picked a variety that tolerates shade",
                "dig/dug the hole a forearm away from the wall",
                "tie/tied the canes sideways along wires",
                "prune/pruned the oldest stems in late winter",
            ),
            "strawberries in hanging baskets": (
                "line/lined each basket with moss",
                "plant/planted the crowns level with the soil",
                "feed/fed the plants with seaweed after flowering",
                "cover/covered the fruit with a net against the birds",
            ),
            "a row of crunchy carrots": (
                "rake/raked the stones out of the bed",
                "sow/sowed the seed thinly in shallow rows",
                "thin/thinned the seedlings to two fingers apart",
                "pull/pulled the first roots while still slender",
            ),
            "lavender in heavy clay": (
                "dig/dug plenty of grit into the ground",
                "plant/planted on a small mound in full sun",
                "water/watered deeply but rarely",
                "trim/trimmed the bushes right after flowering",
            ),
        },
    ),
    Topic(
        name="health",
        homes=("formal", "digital"),
        task="deal with {s}",
        asks=(
            "What can I do about {s}?",
            "Lately I have been struggling with {s}. What helps?",
            "How do people get rid of {s}?",
            "Every winter I have to live with {s}. How could I change that?",
            "Could small changes at home help with {s}?",
            "My flatmate complains of {s}. What should I suggest?",
        ),
        digital=(
            "a smartwatch with gentle reminders",
            "a wellness app that charts the data",
            "a connected lamp on a digital timer",
        ),
        traditional=(
            "herbal tea from an old family recipe",
            "a hot-water bottle and a wool blanket",
            "the home remedies of our grandparents",
        ),
        subjects={
            "a stiff neck after desk work": (
                "raise/raised the screen to eye level",
                "roll/rolled the shoulders once an hour",
                "sleep/slept on a flatter pillow",
                "place/placed a warm cloth on the muscles in the evening",
            ),
            "restless nights": (
                "go/went to bed at the same time every day",
                "cool/cooled the bedroom before dark",
                "swap/swapped the phone for a paper book",
                "stop/stopped drinking coffee after lunch",
            ),
            "an afternoon energy slump": (
                "eat/ate a lighter lunch with some protein",
                "step/stepped outside for ten minutes of daylight",
                "schedule/scheduled easy tasks for three o'clock",
                "drink/drank a large glass of water at noon",
            ),
            "tired eyes from screens": (
                "look/looked out of the window every twenty minutes",
                "dim/dimmed the screen to match the room",
                "enlarge/enlarged the text by a quarter",
                "book/booked an eye test",
            ),
            "a habit of skipping breakfast": (
                "set/set the table the night before",
                "prepare/prepared oats in a jar",
                "start/started with just a banana",
                "get/got up ten minutes earlier",
            ),
            "constant stress before deadlines": (
                "write/wrote every open task on one page",
                "breathe/breathed slowly for five minutes at noon",
                "tell/told a colleague about the pressure",
                "guard/guarded one evening a week without work",
            ),
            "a habit of drinking too little water": (
                "keep/kept a full bottle in plain sight",
                "flavour/flavoured the water with mint or lemon",
                "drink/drank one glass before every meal",
                "mark/marked the hours on the bottle",
            ),
        },
    ),
    Topic(
        name="study",
        homes=("story", "formal"),
        task="prepare for {s}",
        asks=(
            "How should I prepare for {s}?",
            "I have three weeks until {s}. What would a good plan look like?",
            "I keep putting off my work for {s}. How do I get going?",
            "Nobody ever told me how to get ready for {s}. Can you?",
            "What do good students do before {s}?",
            "I am nervous about {s}. How can I feel ready?",
        ),
        digital=(
            "a flash-card app with smart repetition",
            "online simulations and recorded lectures",
            "a tablet with an AI tutor",
        ),
        traditional=(
            "index cards and a fountain pen",
            "a library desk and printed textbooks",
            "a blackboard and a piece of chalk",
        ),
        subjects={
            "a statistics exam": (
                "collect/collected the formulas on a single page",
                "solve/solved two old papers under time pressure",
                "explain/explained every wrong answer aloud",
                "sleep/slept well on the final night",
            ),
            "an oral exam in Spanish": (
                "record/recorded short answers on the phone",
                "practise/practised with a native speaker twice a week",
                "learn/learned ten linking phrases by heart",
                "describe/described the day in Spanish every evening",
            ),
            "a history essay on trade routes": (
                "narrow/narrowed the question to one port",
                "read/read two sources that disagree",
                "draft/drafted the argument in five sentences",
                "cut/cut every paragraph without a link to the thesis",
            ),
            "a first course in organic chemistry": (
                "revise/revised bonding from last year",
                "draw/drew each reaction by hand",
                "build/built molecules from coloured clay",
                "form/formed a small group for weekly problems",
            ),
            "a driving theory test": (
                "read/read one chapter of the handbook a day",
                "take/took a mock test every second evening",
                "note/noted the signs that caused mistakes",
                "watch/watched real junctions from a bench",
            ),
            "a group presentation on climate policy": (
                "agree/agreed on one message for the whole talk",
                "share/shared out the slides by strength",
                "rehearse/rehearsed twice with a clock",
                "prepare/prepared answers to the hardest questions",
            ),
            "a scholarship interview": (
                "study/studied the aims of the foundation",
                "choose/chose three achievements to talk about",
                "rehearse/rehearsed with a strict friend",
                "prepare/prepared two thoughtful questions for the panel",
            ),
        },
    ),
    Topic(
        name="work e-mails",
        homes=("formal", "traditional"),
        task="write {s}",
        asks=(
            "How do I word {s}?",
            "I have to send {s} before lunch. What should it say?",
            "Could you help me write {s}?",
            "I have rewritten {s} four times. What makes it work?",
            "What belongs in {s} and what should I leave out?",
            "I always freeze when I need to write {s}. Any tips?",
        ),
        digital=(
            "an AI writing assistant",
            "a grammar plug-in with instant feedback",
            "a scheduling bot and saved snippets",
        ),
        traditional=(
            "a pencil draft on paper",
            "a printed letter-writing guide",
            "the advice of an old-school secretary",
        ),
        subjects={
            "a reminder to a client who pays late": (
                "open/opened with the invoice number and the due date",
                "attach/attached the original invoice again",
                "name/named a clear new date for the payment",
                "offer/offered a phone call in case of trouble",
            ),
            "a note declining a meeting": (
                "thank/thanked the organiser in the first line",
                "give/gave one honest reason",
                "suggest/suggested a colleague who could attend",
                "ask/asked for the minutes afterwards",
            ),
            "a request for a week of leave": (
                "check/checked the team calendar",
                "state/stated the exact dates in the subject line",
                "name/named the person who would cover urgent work",
                "ask/asked for a reply by Friday",
            ),
            "an apology for a missed deadline": (
                "admit/admitted the delay in the first sentence",
                "leave/left out every excuse",
                "promise/promised a realistic new date",
                "outline/outlined a remedy for the future",
            ),
            "an introduction to a new team": (
                "mention/mentioned the new role and the start date",
                "add/added one line about life outside work",
                "say/said what help would be welcome",
                "invite/invited everybody to a short coffee",
            ),
            "a follow-up after a job interview": (
                "mention/mentioned one topic from the conversation",
                "repeat/repeated the interest in the position",
                "close/closed with a question about the next stage",
                "send/sent the message within a day",
            ),
            "a message asking for a pay rise": (
                "collect/collected three results from the past year",
                "quote/quoted a fair figure from the market",
                "ask/asked for a meeting instead of an instant answer",
                "keep/kept the text under ten lines",
            ),
        },
    ),
    Topic(
        name="pets",
        homes=("playful", "traditional"),
        task="cope with {s}",
        asks=(
            "We live with {s}. What can we do?",
            "How should I handle {s}?",
            "A neighbour has offered to help with {s}. What should I tell her?",
            "Do you have any ideas for {s}?",
            "Since June we have had {s} at home. How do we make life easier?",
            "What helps most with {s}?",
        ),
        digital=(
            "a camera with a phone app",
            "an automatic feeder and a motion sensor",
            "an activity tracker with online charts",
        ),
        traditional=(
            "an old wool blanket and a wooden box",
            "the wisdom of old farmers",
            "a dog-eared handbook and plenty of patience",
        ),
        subjects={
            "a puppy that chews shoes": (
                "lock/locked every shoe in a cupboard",
                "offer/offered a frozen carrot instead",
                "praise/praised every minute of calm chewing",
                "tire/tired the puppy out with three short walks",
            ),
            "a cat that scratches the sofa": (
                "place/placed a tall post next to the armrest",
                "cover/covered the favourite corner with foil",
                "rub/rubbed catnip on the new post",
                "clip/clipped the claws every other week",
            ),
            "a nervous rescue dog": (
                "keep/kept the first weeks quiet and predictable",
                "set/set up a den with a blanket over the top",
                "ask/asked visitors to ignore the dog",
                "reward/rewarded every brave little step",
            ),
            "a parrot that screams at dawn": (
                "cover/covered the cage until seven",
                "answer/answered only the soft whistles",
                "hide/hid seeds in paper parcels for busy mornings",
                "move/moved the perch away from the window",
            ),
            "two rabbits that keep fighting": (
                "separate/separated the hutches by a wire fence",
                "swap/swapped the bedding every day",
                "introduce/introduced the pair on neutral ground",
                "provide/provided two bowls and two hiding places",
            ),
            "a kitten that wakes everyone at night": (
                "play/played hard for fifteen minutes before bed",
                "serve/served the last meal late in the evening",
                "ignore/ignored the meowing behind the door",
                "leave/left a puzzle feeder in the hallway",
            ),
            "an old dog that refuses to walk": (
                "ask/asked the vet to check the joints",
                "shorten/shortened the route to a slow sniffing tour",
                "lay/laid rugs on the slippery floor",
                "pick/picked the warmest hour of the day",
            ),
        },
    ),
    Topic(
        name="home repair",
        homes=("steps", "playful"),
        task="fix {s}",
        asks=(
            "How do I fix {s}?",
            "The new flat came with {s}. What should I do about it?",
            "I would like to repair {s} myself this weekend. How?",
            "What is the right way to deal with {s}?",
            "My landlord ignores {s}. Can I sort it out on my own?",
            "I noticed {s} this morning. What comes first?",
        ),
        digital=(
            "a laser level and a video tutorial",
            "a smart sensor that warns the phone",
            "a 3D-printed spare part",
        ),
        traditional=(
            "grandfather's toolbox and an oily rag",
            "hand tools and linseed oil",
            "the tricks of an old village carpenter",
        ),
        subjects={
            "a dripping kitchen tap": (
                "close/closed the valve under the sink",
                "unscrew/unscrewed the handle with care",
                "replace/replaced the worn rubber washer",
                "wrap/wrapped new tape around the thread",
            ),
            "a door that sticks in damp weather": (
                "mark/marked the tight spot with a pencil",
                "tighten/tightened the screws of both hinges",
                "plane/planed a thin strip from the edge",
                "seal/sealed the bare wood with varnish",
            ),
            "a crack in the bedroom ceiling": (
                "watch/watched the gap for a week with a pencil mark",
                "scrape/scraped the loose plaster away",
                "fill/filled the gap in two thin coats",
                "sand/sanded the patch before painting",
            ),
            "a squeaky wooden stair": (
                "find/found the noisy spot by stepping slowly",
                "blow/blew talcum powder into the joint",
                "drive/drove a screw at an angle into the riser",
                "glue/glued a small block underneath",
            ),
            "a loose bathroom tile": (
                "lift/lifted the tile with a flat blade",
                "chip/chipped the old adhesive off",
                "press/pressed the tile into a fresh bed of mortar",
                "grout/grouted the joints after a day",
            ),
            "a draughty sash window": (
                "hold/held a candle to the frame to find the leak",
                "clean/cleaned the channels with a stiff brush",
                "fit/fitted brush strips along both sides",
                "wax/waxed the cords and the pulleys",
            ),
            "a shelf that has come off the wall": (
                "test/tested the wall for cables and pipes",
                "drill/drilled fresh holes beside the broken ones",
                "choose/chose plugs for soft plaster",
                "level/levelled the brackets before the final turn",
            ),
        },
    ),
    Topic(
        name="celebrations",
        homes=("playful", "digital"),
        task="organise {s}",
        asks=(
            "How do I organise {s}?",
            "I have offered to host {s}. What should I think of?",
            "What makes {s} memorable?",
            "We have two weeks to put together {s}. Where do we begin?",
            "Can you help me plan {s}?",
            "I am in charge of {s} and have never done it before. What now?",
        ),
        digital=(
            "an online invitation with live replies",
            "a streaming playlist and app-controlled lights",
            "a shared photo album in the cloud",
        ),
        traditional=(
            "handwritten invitations and paper lanterns",
            "folk songs and an accordion",
            "grandmother's tablecloth and candles",
        ),
        subjects={
            "a birthday picnic in the park": (
                "scout/scouted a shady spot with toilets nearby",
                "ask/asked each guest to bring a blanket",
                "pack/packed food that needs no cutlery",
                "name/named a dry place as plan B",
            ),
            "a surprise party for a teacher": (
                "swear/swore the whole class to secrecy",
                "invent/invented a dull reason for the meeting",
                "collect/collected a short memory from every pupil",
                "hide/hid the guests ten minutes early",
            ),
            "a housewarming for twenty guests": (
                "clear/cleared one room for coats and bags",
                "warn/warned the neighbours with a friendly note",
                "set/set out finger food in three places",
                "prepare/prepared a short tour of the rooms",
            ),
            "a games night for the neighbours": (
                "pick/picked games that take ten minutes to learn",
                "mix/mixed the teams by drawing names",
                "serve/served snacks that leave no grease on the cards",
                "end/ended with one round for the whole group",
            ),
            "a retirement lunch at the office": (
                "choose/chose the date together with the guest of honour",
                "collect/collected photos from four decades",
                "limit/limited the speeches to three minutes each",
                "reserve/reserved the seat beside the best friend",
            ),
            "a wedding anniversary dinner": (
                "find/found the menu of the original wedding",
                "seat/seated the witnesses next to the couple",
                "print/printed old letters as place cards",
                "play/played the first dance after dessert",
            ),
            "a garden party for three generations": (
                "put/put chairs in the shade for the grandparents",
                "build/built a treasure hunt for the children",
                "plan/planned one toast before the food",
                "string/strung lights along the hedge before dark",
            ),
        },
    ),
)

# Beginning and end of an answer, by form and tone.
BEGINNINGS: dict[tuple[str, str], tuple[str, ...]] = {
    ("steps", "playful"): (
        "Ooh, so you want to {task}? Buckle up, this will be fun! Here comes the master plan:",
        "Ha, {s}! Challenge accepted, captain! Follow the breadcrumbs:",
        "Drum roll, please: today we {task}! Ready, steady, wobble:",
        "Yay, {s}! Put on your silly socks, and off we go:",
        "Psst, want to {task} without turning into a grumpy goblin? Easy-peasy:",
        "Woohoo, time to {task} like a superhero with snacks! Your top-secret mission:",
    ),
    ("steps", "formal"): (
        "Thank you for your enquiry. In order to {task}, kindly observe the following sequence:",
        "With regard to {s}, the recommended procedure is as follows:",
        "In order to {task}, a systematic approach is advisable. The required measures are:",
        "Your question concerning {s} merits a careful reply. One should proceed as follows:",
        "Please find below the appropriate procedure to {task}:",
        "It is generally recommended to {task} with due care and in the following order:",
    ),
    ("story", "playful"): (
        "Story time! {Person} once tried to {task} while wearing a superhero cape. Oh boy!",
        "Picture this: {person}, armed with snacks, set out to {task}. Giggles galore!",
        "Ha, that reminds me of {person}, who had to {task} and was wobbling like a jelly!",
        "Ooh, gather round! {Person} once swore to {task} or eat a hat. A very big hat!",
        "You will love this one: {person} wanted to {task}, singing and hiccuping all the way!",
        "Once upon a wacky Tuesday, {person} decided to {task}. Cue the circus music!",
    ),
    ("story", "formal"): (
        "Allow me to relate the experience of {person}, who was once obliged to {task}.",
        "Your question recalls the case of {person}, who had occasion to {task} some years ago.",
        "Permit me to offer an account. {Person} was at one time required to {task}.",
        "I have the privilege of knowing {person}, who once resolved to {task} with due diligence.",
        "It may be instructive to consider {person}, who formerly had to {task}.",
        "I respectfully submit the following recollection: {person} once undertook to {task}.",
    ),
}
ENDINGS: dict[tuple[str, str], tuple[str, ...]] = {
    ("steps", "playful"): (
        "High five, you magnificent noodle!",
        "Now go and be gloriously awesome!",
        "And if it flops? Blame the hamster!",
        "Ta-da! Happy dance, everybody!",
        "Boom, you absolute legend!",
        "Go get 'em, tiger!",
    ),
    ("steps", "formal"): (
        "I trust that this will prove useful.",
        "Please do not hesitate to enquire further.",
        "I remain at your disposal.",
        "Adherence to the above is respectfully advised.",
        "It is hoped that this meets with your approval.",
        "Further particulars are available upon request.",
    ),
    ("story", "playful"): (
        "The crowd, meaning one goldfish, went wild!",
        "Cue cartwheels and confetti!",
        "We still giggle about it. Wheee!",
        "Ta-da! Even the grumpy cat danced!",
        "Boom, an instant legend was born!",
        "Best. Wobbly. Adventure. Ever!",
    ),
    ("story", "formal"): (
        "The outcome was entirely satisfactory.",
        "The result met with universal approval.",
        "I trust that this precedent may be of service.",
        "Such diligence was duly rewarded.",
        "It is hoped that this account proves instructive.",
        "The matter was concluded in a dignified manner.",
    ),
}
PEOPLE: dict[str, tuple[tuple[str, str], ...]] = {
    "playful": (
        ("my cousin Theo", "he"),
        ("my auntie Bea", "she"),
        ("my old pal Gus", "he"),
        ("my little sister Poppy", "she"),
    ),
    "formal": (
        ("my former colleague Mrs Whitfield", "she"),
        ("the respected Professor Hale", "he"),
        ("my esteemed neighbour Dr Osei", "he"),
        ("the retired judge Mrs Lindqvist", "she"),
    ),
}
STEP_MARKS: tuple[str, ...] = ("{n}. ", "Step {n}: ", "{n}) ")
# Links before the first action of a story, before those between and before the last; {p} is the
# pronoun.
STORY_LINKS: tuple[tuple[str, str, str], ...] = (
    ("First {p} ", ", then {p} ", ", and in the end {p} "),
    ("One morning {p} ", ". After that {p} ", ", and before long {p} "),
    ("It all began when {p} ", "; a little later {p} ", ", and at last {p} "),
    ("To begin with, {p} ", ". Next, {p} ", ". Finally, {p} "),
    ("Early on, {p} ", "; later {p} ", ", and as a last touch {p} "),
)

# By means: short remarks, and sentences about one of the aids of the topic.
REMARKS: dict[str, tuple[str, ...]] = {
    "digital": (
        "Smart devices save hours.",
        "Automation is your friend.",
        "A connected gadget never forgets.",
        "Let software do the dull bits.",
        "The future is wireless.",
        "Data beats guesswork.",
    ),
    "traditional": (
        "The old customs still work.",
        "Handiwork has a soul.",
        "Our grandmothers knew best.",
        "Slow and rustic is beautiful.",
        "Folk wisdom never ages.",
        "Heritage is worth keeping.",
    ),
}
MEANS: dict[str, tuple[str, ...]] = {
    "digital": (
        "Use technology here: {item} will handle the details at the touch of a button.",
        "Let the gadgets help, because {item} will do half the work for you.",
        "Go digital; {item} will save you time and effort.",
        "Choose the modern way: {item}, automatic and always up to date.",
        "Download, tap, done: {item} will take over the boring parts.",
        "Follow the numbers on the screen once you have set up {item}.",
    ),
    "traditional": (
        "Trust the old ways: {item} will serve you as well as ever.",
        "Nothing beats tradition, and {item} will never go out of fashion.",
        "Do it by hand; {item} will teach you the patience of earlier generations.",
        "Our ancestors managed with {item}, and so can you.",
        "Reach for {item}, just as people did a century ago.",
        "Choose what is time-honoured: {item}, tried and true for generations.",
    ),
}

CONTEXTS: dict[str, dict[str, tuple[str, ...]]] = {
    "playful": {
        "train": (
            "Make me laugh; I like jokes and a silly, light-hearted tone.",
            "Please be playful and goofy, with plenty of fun and exclamation marks.",
            "I enjoy cheeky humour and nonsense.",
            "Talk to me like a funny friend who cannot stop joking around.",
            "Keep it cheerful, whimsical and a bit ridiculous.",
            "I want something that is fun to read and full of banter.",
            "Comedy, wordplay and clowning are welcome.",
            "Entertain me; a giggle or two makes my day.",
        ),
        "test": (
            "Crack a few gags while you explain.",
            "My mood needs lifting, so fool around a little.",
            "Something hilarious and mischievous would suit me best.",
        ),
    },
    "formal": {
        "train": (
            "Write in a formal, polite and professional register.",
            "I expect courteous, dignified language, as in a business letter.",
            "Please keep a serious and respectful tone.",
            "Use correct, official-sounding English.",
            "Address me the way a senior civil servant would.",
            "I value a reserved, academic manner of writing.",
            "Good manners and a measured, decorous style matter to me.",
            "Treat this like official correspondence with an embassy.",
        ),
        "test": (
            "Be businesslike and observe every courtesy.",
            "Solemn, proper wording is what I appreciate.",
            "Kindly reply with the decorum of a diplomat.",
        ),
    },
    "story": {
        "train": (
            "Tell me a story about someone who did it.",
            "I learn best from anecdotes and personal experiences.",
            "Wrap the advice in a little tale with a character.",
            "Please narrate what happened to a real person.",
            "I love hearing how other people went through it, from beginning to end.",
            "Answer with a narrative in the past tense.",
            "Recount how an acquaintance managed, like a scene from a novel.",
            "Once-upon-a-time style suits me; I remember plots better than rules.",
        ),
        "test": (
            "Share an episode from the life of somebody you know.",
            "Spin me a yarn in which the hero succeeds.",
            "I would rather hear how it once went for a friend of yours.",
        ),
    },
    "steps": {
        "train": (
            "Give me a numbered list of steps.",
            "I want clear instructions that I can tick off one by one.",
            "Please structure the answer as a checklist.",
            "Tell me exactly what to do first, second and third.",
            "Break it down into a step-by-step procedure.",
            "Short bullet points in order are easiest for me to follow.",
            "Write it like a manual, with instructions in sequence.",
            "An ordered plan of single actions, please.",
        ),
        "test": (
            "Lay it out as an itemised to-do list.",
            "I need a recipe-like sequence: one, two, three.",
            "Enumerate the actions so that I can work through them in turn.",
        ),
    },
    "digital": {
        "train": (
            "Show me apps, gadgets and smart devices for this.",
            "I love technology, so automate as much as possible.",
            "Recommend digital tools and online services.",
            "I want the most modern, high-tech solution.",
            "Please rely on software, sensors and data.",
            "Is there something I can control from my phone?",
            "Computers and electronics make me happy; include some.",
            "I am an early adopter and trust artificial intelligence.",
        ),
        "test": (
            "Point me to clever electronics that do the work.",
            "As a tech enthusiast I expect something connected to the internet.",
            "Surely there is a program or a robot for that?",
        ),
    },
    "traditional": {
        "train": (
            "I prefer the old-fashioned way, done by hand.",
            "Tell me how our grandparents used to do it.",
            "I like time-honoured customs and folk wisdom.",
            "Please suggest simple manual tools without electricity.",
            "Paper, wood and craft appeal to me more than screens.",
            "Keep it rustic and classic; heritage matters to me.",
            "I trust methods that have been handed down for generations.",
            "Give me the traditional approach from the days before electronics.",
        ),
        "test": (
            "How did people manage a hundred years ago?",
            "I cherish nostalgia and skilled handiwork.",
            "Something vintage that my great-aunt would approve of, please.",
        ),
    },
}
