"""Where commands of the documents run: the stack of scripts/up, an empty PostgreSQL, Redis as deploy/redis starts it, kubectl."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from glob import glob
from pathlib import Path

from documents import ROOT
from names import openapi

# Of the first build as of a slow machine; only the wait ends early.
STARTED_WITHIN_S = 1800
READY_WITHIN_S = 120
STOPPED_WITHIN_S = 60
# What a browser would show for as long as it is open.
STREAMS = ("/monitoring/live",)
# Every service has it, from the first second.
METRIC = "up"


class Place:
    """What a command sees: variables, a folder, and lines that come before it."""

    name = ""
    before = ""
    folder = ROOT
    # Commands that the place itself tells to try.
    screen = ()

    def __init__(self):
        self.variables = {}
        self.processes = []

    def command(self, _text):
        """How a command between backticks is run here, if it is one for this place."""

    def __enter__(self):
        # Servers that run as another user must be able to walk there.
        self.work = Path(tempfile.mkdtemp(prefix="mainstay-docs-", dir="/tmp"))
        self.work.chmod(0o755)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            # As Ctrl-C does.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOPPED_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            finally:
                self.processes.remove(process)
        self.stopped()
        shutil.rmtree(self.work)

    def stopped(self):
        """Looks at what is left once all has ended."""

    def start(self):
        pass

    def spawn(self, command, log, user=(), **variables):
        """Starts a server, which ends with this program however that ends."""
        command = ["setpriv", "--pdeathsig", "INT", *user, *command]
        with open(self.work / log, "wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **variables}, stdin=subprocess.DEVNULL,
                                       stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        self.processes.append(process)
        return process

    def wait(self, what, ready, log, within=READY_WITHIN_S):
        until = time.monotonic() + within
        while not ready():
            if time.monotonic() > until or any(process.poll() is not None for process in self.processes):
                raise SystemExit(f"{what} is not there: {(self.work / log).read_text()[-4000:]}")
            time.sleep(0.1)


class Stack(Place):
    """scripts/up, with its own ports: what most documents talk about."""

    name = "stack"

    def __init__(self, debug):
        super().__init__()
        self.options = ["--yes", *(["--debug"] if debug else [])]

    def start(self):
        # Where scripts look for a stack that runs here.
        folder = self.work / f"mainstay-up-{os.getuid()}"
        self.spawn(["scripts/up", *self.options], "up.log", TMPDIR=str(self.work))
        self.wait("scripts/up", (folder / "endpoints.json").exists, "up.log", STARTED_WITHIN_S)
        ends = json.loads((folder / "endpoints.json").read_text())
        keys, (primary, replica, *_) = ends["credentials"], ends["postgres"]["nodes"]
        superuser = f"postgresql://postgres:{keys['postgres_superuser_password']}"
        edge = f"http://{ends['services']['edge-gateway']['outer']}"
        key = keys["api_keys"]["admin"]
        self.variables = {
            "TMPDIR": str(self.work), "EDGE": edge, "API_KEY": key, "ADMIN": key, "AUTH_TOKEN": key, "NO_COLOR": "1",
            "PRIMARY_URL": f"{superuser}@{primary['address']}/mainstay", "REPLICA_URL": f"{superuser}@{replica['address']}/mainstay",
            "PGBOUNCER_URL": f"postgresql://mainstay_monitor:{keys['postgres_monitor_password']}@{primary['pgbouncer']}/pgbouncer",
        }
        # The screen comes right after the file, and has commands to try.
        self.wait("the screen", lambda: "\nTo look at\n" in (self.work / "up.log").read_text(), "up.log")
        self.screen = re.findall(r"(?m)^  (curl .*)", (self.work / "up.log").read_text())
        # A replica must first prove how fresh it is.
        subprocess.run(["scripts/health_check.sh", "--wait", str(READY_WITHIN_S)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

    def command(self, text):
        if match := re.fullmatch(r"GET (/[^ ]*)", text):
            return self._get(match[1].replace("metric=...", f"metric={METRIC}"))
        if text.startswith("select "):
            # What only a replica has an answer for, or only the primary.
            return f'psql -v ON_ERROR_STOP=1 "$REPLICA_URL" -c "{text}" || psql -v ON_ERROR_STOP=1 "$PRIMARY_URL" -c "{text}"'
        if re.fullmatch(r"SHOW [A-Z]+", text):
            return f'psql "$PGBOUNCER_URL" -c "{text}"'
        return None

    def _get(self, path):
        """Asks for a path in both forms, if it may be longer, unless it has names in it that are the reader's."""
        forms = {re.sub(r"\[.*\]", "", path), path.replace("[", "").replace("]", "")}
        asked = sorted(form for form in forms if not re.search(r"[{}]|\.\.\.", form) and self._is_complete(form))
        curl = 'curl -sS --fail-with-body --max-time 20 -H "x-api-key: $API_KEY"'
        stream = '{ timeout 2 %s -N "$EDGE%s" || true; } | grep -m1 .'
        return "; ".join(stream % (curl, form) if form in STREAMS else f'{curl} "$EDGE{form}"' for form in asked) or None

    @staticmethod
    def _is_complete(form):
        path, _, query = form.partition("?")
        operation = openapi()["paths"].get(path, {}).get("get")
        given = {part.partition("=")[0] for part in query.split("&")}
        return operation and all(one["name"] in given for one in operation.get("parameters", []) if one.get("required"))

    def stopped(self):
        left = subprocess.run(["pgrep", "--full", "--list-full", str(self.work)], capture_output=True, text=True).stdout
        if left:
            raise SystemExit(f"scripts/up left behind: {left}")


class Postgres(Place):
    """An empty server, and an empty folder for its replica."""

    name = "postgres"

    def start(self):
        found = sorted(glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[-2]))
        programs = found[-1] if found else str(Path(shutil.which("initdb")).parent)
        # PostgreSQL does not run as root.
        user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
        if user:
            shutil.chown(self.work, "postgres")
        port = "54317"
        self.variables = {"PATH": f"{programs}:{os.environ['PATH']}", "PGHOST": "127.0.0.1", "PGPORT": port, "PGUSER": "postgres",
                          "PRIMARY": "127.0.0.1", "PGDATA": str(self.work / "replica")}
        primary = f"{self.work}/primary"
        initdb = [f"{programs}/initdb", "--auth=trust", "--username=postgres", f"--pgdata={primary}"]
        subprocess.run(["setpriv", *user, *initdb], cwd="/", check=True, stdout=subprocess.DEVNULL)
        self.spawn([f"{programs}/postgres", "-D", primary, "-p", port, "-k", str(self.work)], "postgres.log", user)
        ready = [f"{programs}/pg_isready", "--quiet", "--host=127.0.0.1", f"--port={port}"]
        self.wait("PostgreSQL", lambda: subprocess.run(ready).returncode == 0, "postgres.log")


class Redis(Place):
    """A primary, a replica and three Sentinels as deploy/redis starts them in containers, each on a loopback address of its own."""

    name = "redis"
    PRIMARY, REPLICA, SENTINELS = "127.0.0.11", "127.0.0.12", ("127.0.0.21", "127.0.0.22", "127.0.0.23")

    def start(self):
        secrets = self.work / "secrets"
        owner = {"OWNER": f"{os.getuid()}:{os.getgid()}", "SECRETS": str(secrets)}
        subprocess.run(["sh", "deploy/docker/secrets.sh"], cwd=ROOT, check=True, env={**os.environ, **owner})
        self._node(self.PRIMARY, "start-redis.sh", "primary")
        self._node(self.REPLICA, "start-redis.sh", "replica", PRIMARY=self.PRIMARY)
        for sentinel in self.SENTINELS:
            self._node(sentinel, "start-sentinel.sh", PRIMARY=self.PRIMARY)
        password = {name: (secrets / "redis" / name).read_text() for name in ("redis-password", "redis-sentinel-password")}
        self.variables = {
            "REDIS_HOST": self.PRIMARY, "REDIS_PASSWORD": password["redis-password"], "SENTINEL_HOST": self.SENTINELS[0],
            "SENTINEL_PASSWORD": password["redis-sentinel-password"], "OPERATOR_PASSWORD": password["redis-sentinel-password"],
        }
        ask = ["redis-cli", "-h", self.SENTINELS[0], "-p", "26379", "SENTINEL"]
        auth = {**os.environ, "REDISCLI_AUTH": password["redis-sentinel-password"]}

        def told(*words):
            return subprocess.run([*ask, *words, "mainstay"], env=auth, capture_output=True, text=True).stdout

        log = f"{self.SENTINELS[0]}.log"
        self.wait("Redis", lambda: told("CKQUORUM").startswith("OK 3") and "\nonline\n" not in told("REPLICAS") and
                  "master-link-status\nok\n" in told("REPLICAS"), log)

    def command(self, text):
        """As the user of operators, who may not do everything."""
        if re.fullmatch(r"SLOWLOG GET|LATENCY LATEST|MEMORY STATS|INFO [a-z]+", text):
            return f'REDISCLI_AUTH=$OPERATOR_PASSWORD redis-cli -e -h "$REDIS_HOST" --user operator {text}'
        if re.fullmatch(r"SENTINEL CKQUORUM \w+", text):
            return f'REDISCLI_AUTH=$SENTINEL_PASSWORD redis-cli -e -h "$SENTINEL_HOST" -p 26379 {text}'
        return None

    def _node(self, address, script, *role, **variables):
        """Starts a node on a copy of deploy/redis that has the folders of a container below our own."""
        home = self.work / address
        for name in ("data", "run", "etc"):
            (home / name).mkdir(parents=True)
        moved = {"/run/secrets": self.work / "secrets/redis", "/run/redis": home / "run",
                 "/etc/mainstay": home / "etc", "/data": home / "data"}
        for name in (script, "redis.conf", "sentinel.conf"):
            text = (ROOT / "deploy/redis" / name).read_text().replace("bind 0.0.0.0 -::*", f"bind {address}")
            for old, new in moved.items():
                text = re.sub(rf"(?<![\w/]){old}\b", str(new), text)
            (home / "etc" / name).write_text(text)
        self.spawn(["sh", str(home / "etc" / script), *role], f"{address}.log", ANNOUNCE=address, **variables)


class Kubernetes(Place):
    """kubectl without a cluster: it makes each object, and sends it nowhere."""

    name = "kubernetes"
    before = 'kubectl() { command kubectl "$@" --dry-run=client --output=name; }\n'

    def start(self):
        self.folder = self.work
        (self.work / "deploy").symlink_to(ROOT / "deploy")
