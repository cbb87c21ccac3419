"""`python -m vsn_train`: the commands that this package installs."""

COMMANDS = """\
vsn-train dataset=… backbone=…          train a network; vsn-train --help lists all keys
vsn-eval checkpoint=… protocol=…        evaluate a checkpoint
vsn-predict checkpoint=… video=…        classify videos
vsn-tools VERB …                        data sets, scores, export, benchmarks; vsn-tools --help lists the verbs"""

if __name__ == "__main__":
    print(COMMANDS)
