"""`python -m vsn_train`: the commands that this package installs."""

COMMANDS = """\
vsn-train dataset=… backbone=…          train a network; vsn-train --help lists all keys
vsn-eval checkpoint=… protocol=…        test a checkpoint
vsn-predict checkpoint=… video=…        the classes of one video
vsn-tools VERB …                        everything around them; vsn-tools --help lists the verbs"""

if __name__ == "__main__":
    print(COMMANDS)
