"""The whole pipeline on a tiny backbone: run, rerun, change settings, and all error messages."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from micro_rm.pipeline import main

TASTES = ("short", "long")
CONTEXTS = {
    "short": {"train": ["be brief", "few words please"], "test": ["keep it terse"]},
    "long": {"train": ["tell me everything", "many words please"], "test": ["go into detail"]},
}
# The methods of the paper; one test below runs all the others too.
PAPER_METHODS = "--methods=single_bt,static_mixture,micro_stage1,micro"
TRAIN = [
    PAPER_METHODS,
    "--train.num_heads=3",
    "--train.epochs=8",
    "--train.batch_size=16",
    "--adapt.draws=2",
]


def rows(split: str, prompts: int) -> list[dict[str, Any]]:
    """Pairs of two raters with opposed tastes, on the same two answers to each prompt."""
    made = []
    for number in range(prompts):
        prompt = f"question {split} {number} about the {'garden' if number % 2 else 'kitchen'}"
        answers = {
            "short": f"yes {number}",
            "long": f"yes it is so and here is the whole story {number}",
        }
        for taste in TASTES:
            other = TASTES[1 - TASTES.index(taste)]
            made.append(
                {
                    "prompt": prompt,
                    "chosen": answers[taste],
                    "rejected": answers[other],
                    "attribute": taste,
                }
            )
    return made


def write_jsonl(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content), "utf-8")
    return path


@pytest.fixture(scope="session")
def backbone_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer random Llama with a word-level tokenizer, saved as a local directory."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("backbone")
    text = " ".join(json.dumps(row) for row in rows("train", 40) + rows("test", 20))
    text += json.dumps(CONTEXTS)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = sorted({word for word, _ in splitter.pre_tokenize_str(text)})
    vocabulary = {word: number for number, word in enumerate(["[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = splitter  # type: ignore[assignment]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(
        directory
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    LlamaModel(config).save_pretrained(directory)
    return directory


@pytest.fixture
def arguments(backbone_dir: Path, tmp_path: Path) -> list[str]:
    """Flags of a complete small run in a fresh directory."""
    write_jsonl(tmp_path / "train.jsonl", rows("train", 40))
    write_jsonl(tmp_path / "test.jsonl", rows("test", 20))
    (tmp_path / "contexts.json").write_text(json.dumps(CONTEXTS), "utf-8")
    return [
        f"--data.train={tmp_path / 'train.jsonl'}",
        f"--data.test={tmp_path / 'test.jsonl'}",
        f"--data.contexts={tmp_path / 'contexts.json'}",
        f"--backbone.name={backbone_dir}",
        "--backbone.dtype=float32",
        f"--store.dir={tmp_path / 'store'}",
        f"--run.dir={tmp_path / 'run'}",
        "--adapt.budget=10",
        "--evaluate.bootstrap=50",
        "--embed.device=cpu",
        *TRAIN,
    ]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Run a command that must end with an error for the user; returns the message."""

    def run(argv: list[str]) -> str:
        capsys.readouterr()  # a slow machine has shown the progress of what came before
        assert main(argv) == 2
        message = capsys.readouterr().err
        assert message.startswith("micro-rm: ")
        return message

    return run


def test_run_makes_every_promised_file(arguments: list[str], tmp_path: Path) -> None:
    assert main(["run", *arguments, "--views.adapt_head=plain"]) == 0
    run = tmp_path / "run"
    for name in (
        "record.json",
        "model.safetensors",
        "model.json",
        "metrics.jsonl",
        "predictions.parquet",
        "report.json",
        "report.html",
    ):
        assert (run / name).stat().st_size > 0, name
    report = json.loads((run / "report.json").read_text("utf-8"))
    best = [
        f"{owner}_best_head_{kind}"
        for owner in ("static_mixture", "micro_stage1")
        for kind in ("validated", "oracle")
    ]
    real = ["single_bt", "static_mixture", "micro_stage1", "micro"]
    assert list(report["methods"]) == real + best
    # Every pair has its mirror image: a reward that does not read the context has accuracy 0.5.
    assert report["methods"]["single_bt"]["macro"]["accuracy"] == pytest.approx(0.5)
    for method in report["methods"].values():
        assert set(method["attributes"]) == set(TASTES)
        assert all(cell["n"] == 20 for cell in method["attributes"].values())
    table = parquet.read_table(run / "predictions.parquet").to_pylist()
    assert len(table) == 40 * (3 + 2 + 4)  # methods without draws, one with two, single heads
    assert all(row["scored"] for row in table)
    assert {row["method"] for row in table if row["margins"] is None} == set(best)
    for row in table:
        if row["margins"] is None:
            continue
        assert math.isclose(sum(row["weights"]), 1, rel_tol=1e-5)
        assert len(row["margins"]) == len(row["weights"])
        mixture = sum(
            weight / (1 + math.exp(-margin))
            for weight, margin in zip(row["weights"], row["margins"], strict=True)
        )
        assert math.isclose(mixture, row["probability"], rel_tol=1e-4)
    # A number in the report can be rebuilt from the rows.
    micro = [row for row in table if row["method"] == "micro" and row["attribute"] == "short"]
    rebuilt = sum(row["correct"] for row in micro) / len(micro)
    assert rebuilt == pytest.approx(report["methods"]["micro"]["attributes"]["short"]["accuracy"])


def test_a_second_run_does_nothing_and_says_the_same(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", *arguments])
    first = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.h5")}
    capsys.readouterr()
    assert main(["run", *arguments]) == 0
    printed = capsys.readouterr().out
    assert printed.count("done before for the same inputs") == 4
    second = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    assert first["methods"] == second["methods"]
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.h5")}


@pytest.mark.long
def test_another_k_trains_again_but_embeds_nothing(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", *arguments])
    shards = sorted((tmp_path / "store" / "shards").iterdir())
    capsys.readouterr()
    assert main(["run", *arguments, "--train.num_heads=5"]) == 0
    assert "embed    done before for the same inputs" in capsys.readouterr().out
    assert sorted((tmp_path / "store" / "shards").iterdir()) == shards
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    assert len(report["heads"]["micro"]["usage"]) == 5


@pytest.mark.long
def test_the_same_seed_gives_the_same_numbers_in_another_directory(
    arguments: list[str], tmp_path: Path
) -> None:
    main(["run", *arguments])
    main(["run", *arguments, f"--run.dir={tmp_path / 'again'}"])
    main(["run", *arguments, f"--run.dir={tmp_path / 'other'}", "--run.seed=7"])
    model = {
        name: (tmp_path / name / "model.safetensors").read_bytes()
        for name in ("run", "again", "other")
    }
    assert model["run"] == model["again"]
    assert model["run"] != model["other"]


@pytest.mark.long
def test_stages_can_be_run_one_by_one(arguments: list[str], tmp_path: Path) -> None:
    for command in ("check", "embed", "verify", "inspect", "train", "adapt", "evaluate", "report"):
        assert main([command, *arguments]) == 0, command
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.long
def test_added_rows_embed_only_what_is_new(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["embed", *arguments])
    write_jsonl(tmp_path / "train.jsonl", rows("train", 41))
    capsys.readouterr()
    assert main(["embed", *arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    # One new prompt with two answers: in the plain view 3 sequences, in the ctx view of two
    # contexts (both rows are in the pool) 2 prompts and 4 responses.
    assert result["new_sequences"] == 9
    assert main(["verify", *arguments]) == 0


def test_dry_run_plans_and_writes_nothing(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("embed", "run"):
        assert main([command, *arguments, "--dry_run", "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert plan["new_sequences"] > 0 and plan["tokens"] > 0 and plan["bytes"] > 0
        assert plan["estimated_seconds"] > 0
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_data_without_contexts_leave_micro_out_with_a_reason(
    arguments: list[str], tmp_path: Path
) -> None:
    plain = [flag for flag in arguments if not flag.startswith("--data.contexts")]
    assert main(["run", *plain]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    assert "micro" not in report["methods"]
    assert "give data.contexts" in report["skipped"]["micro"]


@pytest.mark.long
def test_all_methods_run_or_say_what_they_lack(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from micro_rm.heads.methods import METHODS

    small = ["--baselines.vpl.hidden=8", "--baselines.vpl.latent=4", "--baselines.vpl.epochs=2"]
    small += [
        "--baselines.pal.hidden=8",
        "--baselines.pal.latent=4",
        "--baselines.drm.components=3",
    ]
    assert main(["run", *arguments, "--methods=all", *small]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    assert set(report["skipped"]) == {"native_head", "armo_style"}
    assert "ratings" in report["skipped"]["armo_style"]
    done = [name for name in report["methods"] if "_best_head_" not in name]
    assert done == [name for name in METHODS if name not in report["skipped"]]
    printed = capsys.readouterr().out
    assert "train    native_head is left out: the backbone has no reward head" in printed
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    for name in METHODS:
        assert name in printed
        assert f"<strong>{name}</strong>" in page
    assert all(entry["summary"].endswith(".") for entry in report["methods"].values())


@pytest.mark.long
def test_rows_of_the_test_split_can_be_adapted_to_and_are_not_scored(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Adapting to other rows does not train stage 1 again."""
    assert main(["run", *arguments]) == 0
    model = json.loads((tmp_path / "run" / "model.json").read_text("utf-8"))["methods"]
    capsys.readouterr()
    one_draw = ["--adapt.source=test", "--adapt.budget=4", "--adapt.draws=1"]
    assert main(["run", *arguments, *one_draw]) == 0
    printed = capsys.readouterr().out
    assert "1 draws of 4 rows per attribute of the test rows, not scored then" in printed
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    cells = report["methods"]["micro"]["attributes"]
    assert [cell["n"] for cell in cells.values()] == [16, 16]
    # A method that does not adapt is scored on all rows, also with a single draw.
    plain = report["methods"]["micro_stage1"]["attributes"]
    assert [cell["n"] for cell in plain.values()] == [20, 20]
    table = parquet.read_table(tmp_path / "run" / "predictions.parquet").to_pylist()
    assert sum(not row["scored"] for row in table if row["method"] == "micro") == 8
    again = json.loads((tmp_path / "run" / "model.json").read_text("utf-8"))["methods"]
    assert again["micro_stage1"] == model["micro_stage1"]


@pytest.mark.long
def test_raters_without_attributes_can_be_adapted_to(arguments: list[str], tmp_path: Path) -> None:
    """One of the raters has fewer rows than the budget."""
    for split, count in (("train", 40), ("test", 20)):
        made = rows(split, count)
        for row in made:
            row["user"] = row.pop("attribute")
            row["context"] = f"as {row['user']} likes it"
        if split == "train":
            made += [{**row, "user": "rare"} for row in made[:4]]
        write_jsonl(tmp_path / f"{split}.jsonl", made)
    plain = [flag for flag in arguments if not flag.startswith("--data.contexts")]
    assert main(["run", *plain, "--adapt.group=user"]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    assert report["budget"]["group"] == "user" and report["budget"]["groups"] == 3
    assert set(report["methods"]["micro"]["attributes"]) == {"(none)"}


@pytest.mark.long
def test_rated_responses_keep_their_ratings_in_the_store(
    arguments: list[str], tmp_path: Path
) -> None:
    from micro_rm.cache.pairs import read_pairs

    for split, count in (("train", 40), ("test", 20)):
        content = [
            {"prompt": row["prompt"], "response": row["chosen"], "short": n % 2, "long": 1 - n % 2}
            for n, row in enumerate(rows(split, count))
        ]
        write_jsonl(tmp_path / f"{split}.jsonl", content)
    assert main(["run", *arguments, "--methods=length_only,native_head"]) == 0
    ratings = read_pairs(tmp_path / "store", "preferences").ratings
    assert set(ratings) == {"short", "long"}
    assert {name: rating_Nx2.shape for name, rating_Nx2 in ratings.items()} == {
        "short": (120, 2),
        "long": (120, 2),
    }
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    # Responses are one word or many: a reward of the length is right about one taste only.
    cells = report["methods"]["length_only"]["attributes"]
    assert sorted(cell["accuracy"] for cell in cells.values()) in ([0.0, 1.0], [0.5, 0.5])
    assert report["verdict"] == []


@pytest.mark.long
def test_flags_win_over_the_config_file_wherever_they_stand(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("run:\n  dir: somewhere/else\n", "utf-8")
    main(["embed", *arguments, "--config", str(config), "--dry_run"])
    assert main(["run", *arguments, "--config", str(config)]) == 0
    assert (tmp_path / "run" / "report.json").is_file()


def test_check_prints_every_refused_row_and_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_jsonl(tmp_path / "mixed.jsonl", [*rows("train", 30), {"prompt": "x", "chosen": 3}])
    assert main(["check", str(path), "--json"]) == 1
    summary = json.loads(capsys.readouterr().out)
    assert summary["rows"] == 61 and summary["refused"] == 1 and summary["pairs"] == 60
    assert summary["refusals"][0]["row"] == 61
    assert main(["check", str(path)]) == 1
    assert "row 61" in capsys.readouterr().out


class TestErrorsTellWhatToDo:
    """Each names the setting or location, what was expected and the remedy."""

    def test_unknown_key_in_yaml(self, fails: Callable[..., str], tmp_path: Path) -> None:
        config = tmp_path / "bad.yaml"
        config.write_text("train:\n  num_heds: 3\n", "utf-8")
        assert "did you mean train.num_heads?" in fails(["run", "--config", str(config)])

    def test_unknown_flag(self, fails: Callable[..., str]) -> None:
        assert "did you mean adapt.tau?" in fails(["run", "--adapt.taus=1"])

    def test_value_out_of_range(self, fails: Callable[..., str]) -> None:
        assert "train.num_heads: expected 1 or more, found 0" in fails(
            ["run", "--train.num_heads=0"]
        )

    def test_missing_config_file(self, fails: Callable[..., str]) -> None:
        assert "nowhere.yaml" in fails(["run", "--config", "nowhere.yaml"])

    def test_missing_data_file(self, fails: Callable[..., str], arguments: list[str]) -> None:
        message = fails(["run", *arguments, "--data.train=nowhere.jsonl"])
        assert "nowhere.jsonl: no such file" in message and "--data.train" in message

    def test_no_data_file_named(self, fails: Callable[..., str]) -> None:
        assert "data.train" in fails(["run"])

    def test_empty_data_set(
        self, fails: Callable[..., str], arguments: list[str], tmp_path: Path
    ) -> None:
        empty = tmp_path / "empty.jsonl.gz"
        empty.write_bytes(gzip.compress(b""))
        message = fails(["run", *arguments, f"--data.train={empty}", f"--data.test={empty}"])
        assert "no usable pair" in message and "README" in message

    def test_attribute_without_test_rows(
        self, fails: Callable[..., str], arguments: list[str], tmp_path: Path
    ) -> None:
        kept = [row for row in rows("test", 20) if row["attribute"] == "short"]
        write_jsonl(tmp_path / "test.jsonl", kept)
        message = fails(["run", *arguments])
        assert "no test rows for attribute long (40 training rows)" in message
        assert "data.attributes" in message

    def test_store_of_another_backbone(
        self, fails: Callable[..., str], arguments: list[str]
    ) -> None:
        main(["embed", *arguments])
        message = fails(["run", *arguments, "--backbone.max_length=64"])
        assert "max_length: the store has 2048, this run has 64" in message
        assert "store.dir" in message

    def test_training_without_a_store(
        self, fails: Callable[..., str], arguments: list[str]
    ) -> None:
        assert "run micro-rm embed" in fails(["train", *arguments])

    @pytest.mark.long
    def test_adapting_without_a_model(
        self, fails: Callable[..., str], arguments: list[str]
    ) -> None:
        main(["embed", *arguments])
        assert "run micro-rm train" in fails(["adapt", *arguments])

    @pytest.mark.long
    def test_not_enough_budget_rows(self, fails: Callable[..., str], arguments: list[str]) -> None:
        message = fails(["run", *arguments, "--adapt.budget=60"])
        assert "expected 60 train rows for attribute" in message
        assert "lower adapt.budget" in message

    def test_unknown_method_before_anything_is_embedded(
        self, fails: Callable[..., str], arguments: list[str], tmp_path: Path
    ) -> None:
        message = fails(["run", *arguments, "--methods=micro,macro"])
        assert "micro_stage1" in message and "'macro'" in message
        assert not (tmp_path / "store").exists()

    def test_unknown_source(self, fails: Callable[..., str], arguments: list[str]) -> None:
        said = fails(["check", *arguments, "--data.source=json"])
        assert "expected one of capybara, " in said and "jsonl, orca_pairs" in said

    def test_unknown_backbone(
        self, fails: Callable[..., str], arguments: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        message = fails(["embed", *arguments, "--backbone.name=nobody/nothing"])
        assert "backbone.name: nobody/nothing" in message and "local directory" in message

    @pytest.mark.long
    def test_views_that_were_never_embedded(
        self, fails: Callable[..., str], arguments: list[str]
    ) -> None:
        main(["run", *arguments, "--views.adapt_head=plain"])
        message = fails(["evaluate", *arguments, "--views.adapt_head=ctx"])
        assert "run micro-rm embed with these views" in message


@pytest.mark.long
@pytest.mark.parametrize(
    "preset", sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
)
def test_every_preset_loads(preset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["run", "--config", str(preset), "--print_config"])
    assert done.value.code == 0
    assert "num_heads" in capsys.readouterr().out


class TestStaleResultsAreNeverReused:
    """A stage counts as done only for the pair table, settings and files that it used."""

    @pytest.mark.long
    def test_text_changed_behind_the_store(self, arguments: list[str], tmp_path: Path) -> None:
        """Training reads the pair table; the next run notices that the text has changed."""
        main(["run", *arguments])
        write_jsonl(tmp_path / "train.jsonl", rows("train", 44))
        assert main(["train", *arguments]) == 0
        assert main(["run", *arguments]) == 0
        record = json.loads((tmp_path / "run" / "record.json").read_text("utf-8"))
        assert record["stages"]["embed"]["pairs"] == 88 + 40
        one = (tmp_path / "run" / "model.safetensors").read_bytes()
        main(["run", *arguments, f"--run.dir={tmp_path / 'fresh'}"])
        assert (tmp_path / "fresh" / "model.safetensors").read_bytes() == one

    @pytest.mark.long
    def test_a_stage_that_died_half_way(
        self, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from micro_rm.heads import stages

        main(["run", *arguments])
        before = (tmp_path / "run" / "model.safetensors").read_bytes()
        trained = stages.train

        def die(config: Any) -> Any:
            trained(config)
            raise KeyboardInterrupt

        monkeypatch.setattr(stages, "train", die)
        assert main(["run", *arguments, "--train.num_heads=5"]) == 130
        monkeypatch.undo()
        assert main(["run", *arguments]) == 0
        assert (tmp_path / "run" / "model.safetensors").read_bytes() == before

    @pytest.mark.long
    def test_a_deleted_result(self, arguments: list[str], tmp_path: Path) -> None:
        main(["run", *arguments])
        for name in ("model.safetensors", "report.json"):
            (tmp_path / "run" / name).unlink()
            assert main(["run", *arguments]) == 0
            assert (tmp_path / "run" / name).is_file()

    @pytest.mark.long
    def test_settings_of_another_table(
        self, fails: Callable[..., str], arguments: list[str]
    ) -> None:
        main(["embed", *arguments])
        message = fails(["train", *arguments, "--backbone.overlong=error"])
        assert "backbone.overlong: the store has 'drop', this run has 'error'" in message


@pytest.mark.long
def test_rows_without_an_attribute_or_a_context_do_not_stop_a_run(
    arguments: list[str], tmp_path: Path
) -> None:
    bare = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows("train", 4)]
    write_jsonl(tmp_path / "train.jsonl", rows("train", 40) + bare)
    held_out = [{**row, "prompt": row["prompt"].replace("train", "test")} for row in bare]
    write_jsonl(tmp_path / "test.jsonl", rows("test", 20) + held_out)
    assert main(["run", *arguments]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    assert set(report["methods"]["micro"]["attributes"]) == {*TASTES, "(none)"}


@pytest.mark.long
def test_a_diverged_training_is_an_error(fails: Callable[..., str], arguments: list[str]) -> None:
    message = fails(["run", *arguments, "--train.learning_rate=1e30", "--train.clip=1e30"])
    assert "diverged" in message and "lower train.learning_rate" in message


@pytest.mark.long
def test_markup_and_brackets_in_names_are_shown_as_they_are(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train", "test"):
        content = (tmp_path / f"{name}.jsonl").read_text("utf-8")
        (tmp_path / f"{name}.jsonl").write_text(content.replace('"short"', '"[/bold] x"'), "utf-8")
    contexts = {"[/bold] x": CONTEXTS["short"], "long": CONTEXTS["long"]}
    (tmp_path / "contexts.json").write_text(json.dumps(contexts), "utf-8")
    assert main(["run", *arguments]) == 0
    assert "[/bold] x" in capsys.readouterr().out


@pytest.mark.long
def test_adapting_needs_the_heads_that_stage_1_trains(
    fails: Callable[..., str], arguments: list[str]
) -> None:
    main(["embed", *arguments])
    main(["train", *arguments, "--methods=single_bt"])
    message = fails(["adapt", *arguments, "--methods=micro"])
    assert "micro needs micro_stage1, which is not trained" in message
    assert "run.seed: expected 0 or more, found -1" in fails(["run", "--run.seed=-1"])
