//! A backup is what can be restored: one is made of a running stack, everything is lost, and it is put back.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use mainstay_auth::Role;
use mainstay_devstack::{Devstack, Service};
use mainstay_tests::{House, eventually};
use serde_json::json;
use tokio::process::{Child, Command};

const SCRIPT_WITHIN: Duration = Duration::from_mins(3);

#[tokio::test]
async fn what_is_lost_comes_back_from_the_backup() {
    let folder = tempfile::tempdir().unwrap();
    let builder = Devstack::builder().redis(true).postgres(true).demo_data(true).services([
        Service::CacheService,
        Service::ReplicaService,
        Service::MonitorService,
        Service::EdgeGateway,
    ]);
    let house = House::start(builder).await;
    house.healthy().await;
    let rest = house.rest(Role::Admin);
    rest.put("/cache/backup/kept", "before the fire").await.ok();
    let counting = "SELECT count(*)::text FROM revenue_transactions";
    let rows = count(&house, counting).await;
    let rule = r#"{"kind":"threshold","metric":"up","comparison":"below","warning":1}"#;
    let json = rest.clone().with_header("content-type", "application/json");
    json.put("/monitoring/alerts/rules/mine", rule).await.ok();

    let stores = Stores::of(&house, folder.path());
    let backup = stores.backup().await;

    // Written after the backup: gone after the restore.
    rest.put("/cache/backup/later", "after it").await.ok();
    let primary = house.stack().postgres().unwrap().first_primary();
    primary.batch("DROP TABLE revenue_transactions CASCADE", Duration::from_secs(10)).await.unwrap();
    house.stack().service(Service::MonitorService).unwrap().kill().await.unwrap();
    std::fs::write(&stores.monitor_db, "ashes").unwrap();

    stores.restore(&backup).await;

    let redis = RestoredRedis::start(&stores.redis_data, folder.path()).await;
    assert!(redis.get("mainstay:backup:kept").await.contains("before the fire"));
    assert_eq!(redis.get("mainstay:backup:later").await.trim(), "");
    eventually("the table to be back, on the replicas too", || async {
        let answer = rest.post("/database/query", &json!({ "sql": counting })).await;
        let found = answer.text();
        if found.contains(&rows) { Ok(()) } else { Err(found) }
    })
    .await;
    // The services' own role owns what it owned, and may do what it might.
    let write = json!({ "sql": "UPDATE revenue_transactions SET id = id WHERE false" });
    let written = rest.post("/database/execute", &write).await;
    assert!(written.status.is_success(), "{}", written.text());
    house.stack().service(Service::MonitorService).unwrap().start().await.unwrap();
    eventually("the rule to be back", || async {
        let rules = rest.get("/monitoring/alerts/rules").await.text();
        if rules.contains("\"mine\"") { Ok(()) } else { Err(rules) }
    })
    .await;
}

#[tokio::test]
async fn backup_that_was_changed_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("20260101T000000Z");
    std::fs::create_dir(&backup).unwrap();
    std::fs::write(backup.join("SHA256SUMS"), format!("{}  monitor.db\n", "0".repeat(64))).unwrap();
    std::fs::write(backup.join("monitor.db"), "not what was written").unwrap();
    let store = folder.path().join("monitor.db");
    std::fs::write(&store, "today's").unwrap();
    let arguments = ["addresses", "--yes", "--without", "redis", "--without", "postgres", "--from"];
    let ended = script("restore.sh", &arguments, &backup, &[("MONITOR_DB", store.to_str().unwrap())]).await;
    assert_eq!(ended.status.code(), Some(1));
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(told.contains("the backup is not what was written: nothing was changed"), "{told}");
    assert_eq!(std::fs::read_to_string(&store).unwrap(), "today's");
}

/// Where the stores of a house are, as the scripts want to be told.
struct Stores {
    to: PathBuf,
    redis_data: PathBuf,
    monitor_db: PathBuf,
    variables: Vec<(&'static str, String)>,
}

impl Stores {
    fn of(house: &House, folder: &Path) -> Self {
        let stack = house.stack();
        let redis = stack.endpoints().redis.as_ref().expect("the house has Redis");
        let postgres = stack.postgres().expect("the house has PostgreSQL").first_primary();
        let database = &stack.endpoints().postgres.as_ref().expect("the house has PostgreSQL").database;
        let monitor_db = stack.dir().join("services/monitor-service/monitor.db");
        let redis_data = folder.join("redis");
        let variables = vec![
            ("REDIS_ADDRESS", redis.primary.to_string()),
            ("REDIS_PASSWORD", stack.credentials().redis_password.clone()),
            ("REDIS_DATA", redis_data.display().to_string()),
            ("PGHOST", postgres.address().ip().to_string()),
            ("PGPORT", postgres.address().port().to_string()),
            ("PGUSER", "postgres".to_owned()),
            ("PGPASSWORD", stack.credentials().postgres_superuser_password.clone()),
            ("PGDATABASE", database.clone()),
            ("MONITOR_DB", monitor_db.display().to_string()),
        ];
        Self { to: folder.join("backups"), redis_data, monitor_db, variables }
    }

    async fn backup(&self) -> PathBuf {
        let ended = self.run("backup.sh", &["addresses", "--to"], &self.to).await;
        PathBuf::from(ended.lines().last().expect("the script tells where the backup is"))
    }

    async fn restore(&self, backup: &Path) {
        self.run("restore.sh", &["addresses", "--yes", "--from"], backup).await;
    }

    async fn run(&self, name: &str, arguments: &[&str], folder: &Path) -> String {
        let variables: Vec<_> = self.variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let ended = script(name, arguments, folder, &variables).await;
        let (told, failed) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        assert!(ended.status.success(), "{name}: {told}{failed}");
        told.into_owned()
    }
}

async fn script(
    name: &str,
    arguments: &[&str],
    folder: &Path,
    variables: &[(&str, &str)],
) -> std::process::Output {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "scripts", name].iter().collect();
    let mut command = Command::new(path);
    command.args(arguments).arg(folder).envs(variables.iter().copied());
    let ran = command.stdin(Stdio::null()).kill_on_drop(true).output();
    tokio::time::timeout(SCRIPT_WITHIN, ran)
        .await
        .expect("the script ends within a minute")
        .expect("it starts")
}

async fn count(house: &House, sql: &str) -> String {
    let primary = house.stack().postgres().expect("the house has PostgreSQL").first_primary();
    primary.query_text(sql).await.expect("the server answers").expect("a count is a row")
}

/// A Redis of its own on restored data, as an operator starts it: with an append-only file.
struct RestoredRedis {
    socket: PathBuf,
    _process: Child,
}

impl RestoredRedis {
    async fn start(data: &Path, folder: &Path) -> Self {
        let socket = folder.join("redis.sock");
        let process = Command::new("redis-server")
            .args(["--port", "0", "--appendonly", "yes", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(data)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server starts");
        let redis = Self { socket, _process: process };
        eventually("the restored Redis to answer", || async {
            let answer = redis.ask(&["PING"]).await;
            if answer.trim() == "PONG" { Ok(()) } else { Err(answer) }
        })
        .await;
        redis
    }

    async fn get(&self, key: &str) -> String {
        self.ask(&["GET", key]).await
    }

    async fn ask(&self, arguments: &[&str]) -> String {
        let asked = Command::new("redis-cli").arg("-s").arg(&self.socket).args(arguments).output().await;
        String::from_utf8_lossy(&asked.expect("redis-cli runs").stdout).into_owned()
    }
}
