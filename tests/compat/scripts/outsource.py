"""The cooperative system on a virtual machine: local and remote tasks, dispatch, a collector."""

import remote

from encamp.compat.pyopus.cooperative import cOS
from encamp.compat.pyopus.mpi import MPI


def collect(results):
    try:
        while True:
            index, job, result = yield
            results[index] = (job[1][0], result[1])
    except GeneratorExit:
        print("collector closed")


def until(results, limit):
    number = 0
    while all(value < limit for _, value in results.values()):
        yield (remote.square, [number], {}, "extra")
        number += 1


if __name__ == "__main__":
    cOS.setVM(MPI())
    print("slots", cOS.slots(), "free", cOS.freeSlots(), "finished", cOS.finishedTasks())
    tids = [cOS.Spawn(remote.count, kwargs={"name": name, "times": 2}) for name in "ab"]
    tids += [cOS.Spawn(remote.in_turns, [3], remote=True) for _ in range(2)]
    print("running", tids)
    joined = {}
    while len(joined) < len(tids):
        joined.update(cOS.Join())
    print(sorted(joined.items()))

    print(cOS.dispatch(jobList=((remote.square, [n]) for n in range(12)), remote=True))
    results = {}
    cOS.dispatch(jobList=until(results, 100), collector=collect(results), remote=True)
    print(sorted(results.items())[:11])
    print(cOS.dispatchSingle(remote.evaluate, ["6*7"]))
    try:
        cOS.dispatch((remote.evaluate, [text]) for text in ["1", "2/0", "3"])
    except ZeroDivisionError as error:
        print("failed:", error)
    cOS.finalize()
    print("finished")
