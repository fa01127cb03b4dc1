"""The cooperative system on PVM: remote tasks, dispatch, and an error that is raised here."""

import remote

from encamp.compat.pyopus.cooperative import cOS
from encamp.compat.pyopus.pvm import PVM, use_machine

if __name__ == "__main__":
    use_machine("own", slots=3)
    cOS.setVM(PVM(freshInterpreter=False))
    print("slots", cOS.slots(), "free", cOS.freeSlots())
    print([cOS.Spawn(remote.evaluate, [text], remote=True) for text in ["1+1", "2+2"]])
    joined = {}
    while len(joined) < 2:
        joined.update(cOS.Join())
    print(sorted(joined.items()))
    print(cOS.dispatch(jobList=((remote.evaluate, [f"{n}**2"]) for n in range(12)), remote=True))
    try:
        cOS.dispatch([(remote.evaluate, ["1/0"])], remote=True)
    except ZeroDivisionError as error:
        print("failed:", error)
    cOS.finalize()
