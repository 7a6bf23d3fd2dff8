"""What attacks or audits micro-rm: programs to be run from a checkout, not part of the package.

- ``audit``: known vulnerabilities of the pinned versions, as far as somebody can be asked about
  them (``make audit``).
- ``licences``: the licence of every dependency, and the page docs/licences.md.
- ``stress``: kills, system calls that fail, full disks, two writers, readers beside a writer, and
  damaged or malformed files; ``python -m micro_rm.tools.stress`` (``make stress``).
- ``serve.kills``: a server under a load of feedback, killed again and again (``make stress``).
- ``serve.schema_check``: right and wrong requests made from the service's own description
  (``make stress``).
- ``serve.replay``: an export inside OpenRLHF or vLLM, to be run in their environments.

Tests call these in miniature, all but ``serve.replay``.
"""
