"""What the daemon's side of the responder knows of it without starting it."""

import ast

from redirector import answering


def test_a_responder_of_other_sources_is_another_responder():
    """Its socket is named after the modules it consists of; one left out would keep an old responder after an upgrade."""
    found, left = set(), ["responder"]
    while left:
        name = left.pop()
        found.add(f"{name}.py")
        tree = ast.parse((answering.HERE / f"{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("redirector"):
                _, _, module = (node.module or "").partition(".")
                names = [module] if module else [alias.name for alias in node.names]
                left += [one for one in names if f"{one}.py" not in found]

    assert found == set(answering.SOURCES)
