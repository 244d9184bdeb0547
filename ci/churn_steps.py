"""Random work for a real daemon: the steps of `ci/churn`."""

import collections
import concurrent.futures
import random
import threading
import time

BASE = "alpine:3.4"


class Build(collections.namedtuple("Build", "buildkit text options")):
    """One build, which can be done again."""

    def arguments(self, *more):
        return ["build", "--network", "none", "-f", "-", *self.options, *more]


class Steps:
    """Random steps, the same for the same seed until the first kill."""

    # Where nobody listens: what is not there is looked for nowhere else.
    TAGS = [f"localhost:9/t{number}:1" for number in range(6)]
    CONTAINERS = [f"c{number}" for number in range(5)]

    def __init__(self, lab, seed):
        self.lab, self.random = lab, random.Random(seed)
        self.builds = []
        self.number = 0

    def step(self):
        """Does one thing, or in one of ten steps several at a time, over which the daemon is killed."""
        self.number += 1
        if self.random.random() < 0.1:
            self.killed()
        else:
            self.choose()()

    def choose(self):
        choices = {
            self.build_classic: 7, self.build_buildkit: 8, self.run: 5, self.create: 3, self.start: 1, self.copy: 1, self.commit: 2,
            self.tag: 2, self.rm: 3, self.rmi: 4, self.save_and_load: 2, self.load: 1, self.import_: 1, self.prune_images: 1,
            self.prune_builds: 1,
        }  # fmt: skip
        return self.random.choices(list(choices), list(choices.values()))[0]

    def killed(self):
        delay = 0.2 + 2 * self.random.random()
        is_dead = threading.Event()

        def work():
            does = self.choose()
            while not is_dead.is_set():
                does()

        with concurrent.futures.ThreadPoolExecutor() as pool:
            doing = [pool.submit(work) for _ in range(3)]
            time.sleep(delay)
            self.lab.kill()
            is_dead.set()
        for done in doing:
            done.result()
        self.lab.start()

    def pick(self, names):
        return self.random.choice(names)

    def tags(self):
        return sorted(set(self.lab.list("image", "ls", "--format", "{{.Repository}}:{{.Tag}}")) & set(self.TAGS))

    def tagged(self):
        """A tag that is there, mostly."""
        return self.pick(self.tags() or self.TAGS)

    def image(self):
        return self.pick([BASE, *self.tags()])

    def named(self):
        """The name of a container that is there, mostly."""
        there = [name for name in self.lab.list("ps", "-a", "--format", "{{.Names}}") if name in self.CONTAINERS]
        return self.pick(sorted(there) or self.CONTAINERS)

    def new_name(self):
        there = self.lab.list("ps", "-a", "--format", "{{.Names}}")
        return self.pick([name for name in self.CONTAINERS if name not in there] or self.CONTAINERS)

    def word(self):
        """One of a few, so that builds have steps in common."""
        return self.pick(["one", "two", "three", "four"])

    def build(self, build):
        more = ["--no-cache"] if self.random.random() < 0.1 else []
        done = self.lab.docker(*build.arguments(*more), self.lab.dir / "context", buildkit=build.buildkit, input=build.text.encode())
        if build not in self.builds:
            self.builds.append(build)
        return done

    def options(self, *stages):
        options = ["-t", self.pick(self.TAGS)] if self.random.random() < 0.8 else []
        if stages and self.random.random() < 0.2:
            options += ["--target", self.pick(stages)]
        return options

    def instructions(self, least, more=()):
        kinds = [
            lambda: f"RUN echo {self.word()} >/{self.word()}",
            lambda: f"RUN mkdir -p /d/{self.word()} && echo {self.word()} >>/d/log",
            lambda: f"COPY {self.pick('abcd')} /copied/{self.word()}",
            lambda: f"ENV {self.word()}={self.word()}",
            lambda: "RUN rm -rf /d /copied",
            lambda: f"LABEL word={self.word()}",
            *more,
        ]
        lines = [self.pick(kinds)() for _ in range(self.random.randint(least, 4))]
        if self.random.random() < 0.12:
            lines.append("RUN echo partly >/partly; false")
        return lines

    def build_classic(self):
        lines = [f"FROM {self.image()}", *self.instructions(1)]
        stages = ()
        if self.random.random() < 0.4:
            stages = ("first",)
            lines[0] += " AS first"
            lines += [f"FROM {self.image()}", "COPY --from=first /bin/busybox /second", *self.instructions(0)]
        rm = ["--force-rm"] if self.random.random() < 0.5 else ["--rm=false"] if self.random.random() < 0.2 else []
        self.build(Build(False, "\n".join(lines) + "\n", (*self.options(*stages), *rm)))

    def build_buildkit(self):
        more = [
            lambda: f"RUN --mount=type=cache,target=/cache echo {self.word()} >>/cache/log; cp /cache/log /log",
            lambda: f"RUN --mount=type=cache,target=/other,id={self.word()} echo x >>/other/x",
            lambda: "RUN --mount=type=tmpfs,target=/tmp echo x >/tmp/x",
            lambda: f"RUN --mount=type=bind,source={self.pick('abcd')},target=/bound cp /bound /kept",
        ]
        lines = [f"FROM {self.image()} AS first", *self.instructions(1, more)]
        stages = ["first"]
        for name in ["second", "third"][: self.random.randint(0, 2)]:
            source = self.pick(stages)
            lines += [f"FROM {self.pick([self.image(), *stages])} AS {name}"]
            lines += [self.pick([f"COPY --from={source} /bin/busybox /{name}", f"RUN --mount=type=bind,from={source},target=/from ls /from >/{name}"])]
            lines += self.instructions(0, more)
            stages.append(name)
        options = self.options(*stages)
        if self.random.random() < 0.1:
            options = ["-o", f"type=local,dest={self.lab.dir}/out"]
        elif self.random.random() < 0.1:
            options += ["--build-arg", "BUILDKIT_INLINE_CACHE=1"]
        self.build(Build(True, "\n".join(lines) + "\n", ("--progress", "plain", *options)))

    def container(self, *command):
        more = ["-v", "/volume"] if self.random.random() < 0.2 else []
        if self.lab.version != "20" and self.random.random() < 0.15:
            more += ["--mount", f"type=image,source={self.image()},target=/image"]
        return ["--network", "none", "--name", self.new_name(), *more, self.image(), *command]

    def create(self):
        self.lab.docker("create", *self.container("sh", "-c", f"echo {self.word()} >/started"))

    def run(self):
        kind = self.random.random()
        script = f"echo {self.word()} >/ran; rm -f /one"
        if kind < 0.2:
            self.lab.docker("run", "--rm", *self.container("sh", "-c", script))
        elif kind < 0.5:
            self.lab.docker("run", "-d", *self.container("sh", "-c", f"{script}; exec sleep 1000"))
        else:
            self.lab.docker("run", *self.container("sh", "-c", script))

    def start(self):
        self.lab.docker("start", self.named())

    def copy(self):
        self.lab.docker("cp", self.lab.dir / "context" / "a", f"{self.named()}:/put")

    def commit(self):
        self.lab.docker("commit", self.named(), *([self.pick(self.TAGS)] if self.random.random() < 0.7 else []))

    def tag(self):
        self.lab.docker("tag", self.image(), self.pick(self.TAGS))

    def rm(self):
        self.lab.docker("rm", "-f", *(["-v"] if self.random.random() < 0.3 else []), self.named())

    def rmi(self):
        self.lab.docker("rmi", *(["-f"] if self.random.random() < 0.7 else []), self.tagged())

    def save_and_load(self):
        tag, file = self.tagged(), self.lab.dir / "saved.tar"
        if not self.lab.docker("save", "-o", file, tag).returncode:
            self.lab.docker("rmi", "-f", tag)
            self.lab.docker("load", "-q", "-i", file)

    def load(self):
        """An image of its own, of three layers."""
        tag, file = self.pick(self.TAGS), self.lab.dir / "saved.tar"
        self.lab.docker("tag", self.pick(["nasty:1", "nasty:2"]), tag)
        if self.random.random() < 0.5 and file.exists():
            self.lab.docker("load", "-q", "-i", file)

    def import_(self):
        file = self.lab.dir / "exported.tar"
        if not self.lab.docker("export", "-o", file, self.named()).returncode:
            self.lab.docker("import", file, self.pick(self.TAGS))

    def prune_images(self):
        self.lab.docker("image", "prune", "-f")

    def prune_builds(self):
        self.lab.docker("builder", "prune", "-f", *(["-a"] if self.random.random() < 0.3 else []))
