"""Makes a token for a client, and tells a server's file about it.

Example:
  python -m vlm_server.tokens --tokens=server_tokens.json --name=learner --scopes=ask,tune --out=learner.token
  python -m vlm_server.tokens --tokens=server_tokens.json --name=learner --revoke

--tokens gets a digest alone; the token itself is in --out and nowhere else. Both files are for their owner alone
(mode 0600). A server reads its file when it starts.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from vlm_server import command_line, token_files

_TOKENS = flags.DEFINE_string("tokens", None, "The server's file; made if it does not exist.")
_NAME = flags.DEFINE_string("name", None, "Whose token it is: lower case letters, digits, - and _.")
_SCOPES = flags.DEFINE_list("scopes", ["ask"], "What it may do, of ask, tune, admin.")
_OUT = flags.DEFINE_string("out", None, "New file for the token; the client's --token_file.")
_REVOKE = flags.DEFINE_boolean("revoke", False, "Take the token of this name out of the server's file.")


def main() -> int:
    for flag in (_TOKENS, _NAME, *(() if _REVOKE.value else (_OUT,))):
        if not flag.value:
            raise ValueError(f"--{flag.name} must be given")
    if _REVOKE.value:
        token_files.revoke(Path(_TOKENS.value), _NAME.value)
        print(f"{_NAME.value} may do nothing any more, once the server has started again")
        return 0
    token_files.add(Path(_TOKENS.value), _NAME.value, _SCOPES.value, Path(_OUT.value))
    print(f"{_OUT.value} may {', '.join(sorted(_SCOPES.value))}; start the server with --tokens={_TOKENS.value}")
    return 0


if __name__ == "__main__":
    command_line.run(main, "vlm_server.tokens")
