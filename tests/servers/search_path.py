"""Where the processes that tests start look for modules."""

import os


def search_path(*folders):
    """Give a PYTHONPATH of these folders, then those that the tests were themselves given."""
    given = os.environ.get("PYTHONPATH")
    return os.pathsep.join([*map(str, folders), *([given] if given else [])])
