"""Rows of YAML: a list of them, documents one after another, or an object that holds them. The dialect is that of configs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import yaml

from longline.config.document import IMPLICIT_RESOLVERS
from longline.data.decoding import NOT_UTF8
from longline.data.json_rows import REST, checked, of_object

Record = tuple[int, Mapping[str, Any] | str]
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """The safe loader, to which dates, `yes` and `12:30` are text."""

    yaml_implicit_resolvers = IMPLICIT_RESOLVERS


def read_yaml(stream: IO[bytes], name: str, field: str | None, tell: Callable[[str], None]) -> Iterator[Record]:
    """The rows of a file; a document is held whole. What comes behind a mistake can't be read. Raises DataError."""
    loader, line, count = _Loader(stream), 1, 0
    try:
        while loader.check_node():
            node = loader.get_node()
            line = node.start_mark.line + 1
            if isinstance(node, yaml.SequenceNode):
                for item in node.value:
                    line = item.start_mark.line + 1
                    yield line, checked(loader.construct_document(item))
            elif isinstance(node, yaml.MappingNode) and not count:
                lines = {str(key.value): value.start_mark.line + 1 for key, value in node.value}
                yield from of_object(loader.construct_document(node), lines, line, name, field, tell)
            else:
                yield line, checked(loader.construct_document(node))
            count += 1
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        told = NOT_UTF8 if "UTF-8" in problem else f"invalid YAML: {problem}"
        yield mark.line + 1 if mark else line, f"{told}{REST}"
    except (RecursionError, ValueError) as error:
        yield line, f"invalid YAML: {error}{REST}"
    finally:
        loader.dispose()
