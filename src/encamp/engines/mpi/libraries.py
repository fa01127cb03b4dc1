"""Folders of shared libraries on the hosts of an MPI job: only those that no other user can change.

A shell checks the folders first, as `search_paths.only_ours` does, and then becomes the program:
the program itself would be too late, since it loads its libraries before any of its code runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from encamp.engines.mpi.mpi_variables import LIBRARIES, LIBRARIES_LEFT_OUT
from encamp.search_paths import whole_search_path

_TAKE = r"""
me=$(id -u) own=0
if [ "$(id -gn)" = "$(id -un)" ]; then
    case $(getent group "$(id -g)") in *:|*:"$(id -un)") own=$(id -g) ;; esac
fi
alien="! -user $me ! -user 0"
open="-perm -2 -o -perm -20 ! -group 0 ! -group $own"
ours() {
    found=$(find "$1" -prune \( $alien -o $open \)) && [ -z "$found" ] || return
    at=$1
    set --
    while [ "$at" != / ]; do
        at=${at%/*} at=${at:-/}
        set -- "$@" "$at"
    done
    found=$(find "$@" -prune \( $alien -o ! -perm -1000 \( $open \) \)) && [ -z "$found" ]
}
rest=$ENCAMP_MPI_LIBRARIES:
while [ "$rest" ]; do
    one=${rest%%:*} rest=${rest#*:}
    case :$LD_LIBRARY_PATH: in *:"$one":*) continue ;; esac
    real=$(cd -P -- "$one" 2> /dev/null && pwd -P) && [ "$real" != / ] || continue
    if ours "$real"; then
        LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$real
        export LD_LIBRARY_PATH
    else
        ENCAMP_MPI_LIBRARIES_LEFT_OUT=${ENCAMP_MPI_LIBRARIES_LEFT_OUT:+$ENCAMP_MPI_LIBRARIES_LEFT_OUT:}$one
        export ENCAMP_MPI_LIBRARIES_LEFT_OUT
    fi
done
unset ENCAMP_MPI_LIBRARIES
exec "$@"
"""


def libraries_for_hosts(variables: Mapping[str, str]) -> dict[str, str]:
    """Variables that tell ranks on other hosts the folders of this program's libraries."""
    given = variables.get("LD_LIBRARY_PATH")
    return {LIBRARIES: whole_search_path(given)} if given else {}


def with_libraries(program: list[str]) -> list[str]:
    """A command line that runs a program with those folders that are safe on its host."""
    return ["/bin/sh", "-c", _TAKE, "sh", *program]


def take_left_out() -> list[str]:
    """The folders that are not used on this host."""
    return [one for one in os.environ.pop(LIBRARIES_LEFT_OUT, "").split(os.pathsep) if one]
