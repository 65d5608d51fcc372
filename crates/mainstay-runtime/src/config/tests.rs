use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use mainstay_rpc::{Secret, ServerConfig};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::{LogFormat, Problems, ServiceConfig, Sources, TelemetryConfig, fingerprint, load};

#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    server: ServerConfig,
    telemetry: TelemetryConfig,
    pool: Pool,
    nodes: BTreeMap<String, Node>,
    loose: Loose,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Pool {
    max_size: u16,
    weight: f64,
    enabled: bool,
    password: Secret,
    sentinels: Vec<String>,
    ports: Vec<u16>,
    proxy: Option<String>,
    capacity: bytesize::ByteSize,
    #[serde(with = "humantime_serde")]
    wait_within: Duration,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    address: SocketAddr,
    #[serde(default)]
    weight: u16,
    #[serde(default)]
    password: Secret,
}

/// A section whose author forgot `deny_unknown_fields`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Loose {
    title: String,
}

impl Default for Config {
    fn default() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 4030));
        Self {
            server: ServerConfig { listen, ..ServerConfig::default() },
            telemetry: TelemetryConfig::default(),
            pool: Pool::default(),
            nodes: BTreeMap::new(),
            loose: Loose::default(),
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            max_size: 16,
            weight: 1.0,
            enabled: true,
            password: Secret::default(),
            sentinels: Vec::new(),
            ports: Vec::new(),
            proxy: None,
            capacity: bytesize::ByteSize::mib(64),
            wait_within: Duration::from_secs(1),
        }
    }
}

impl ServiceConfig for Config {
    fn server(&self) -> &ServerConfig {
        &self.server
    }

    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }

    fn check(&self, problems: &mut Problems) {
        problems.range("pool.max_size", self.pool.max_size, 1..=500);
        problems.duration(
            "pool.wait_within",
            self.pool.wait_within,
            Duration::ZERO..=Duration::from_secs(30),
        );
    }
}

type Variables<'a> = &'a [(&'a str, &'a str)];

/// Loads from a TOML text and variables. In the messages the file reads FILE.
fn load_from(toml: &str, variables: Variables<'_>) -> Result<Config, Vec<String>> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    file.write_all(toml.as_bytes()).expect("a temporary file can be written");
    let path = file.path().to_owned();
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
    let told = load::<Config>(&Sources { file: Some(path), variables });
    told.map_err(|lines| {
        let without_path = |line: String| match line.split_once(&name) {
            Some((before, after)) => {
                let keep = before.rfind(' ').map_or(0, |space| space + 1);
                format!("{}FILE{after}", &before[..keep])
            }
            None => line,
        };
        lines.into_iter().map(without_path).collect()
    })
}

fn problems_of(toml: &str, variables: Variables<'_>) -> Vec<String> {
    load_from(toml, variables).expect_err("the configuration has problems")
}

#[test]
fn each_layer_wins_over_the_one_below() {
    let toml = "[pool]\nmax_size = 20\nweight = 2\n[nodes.eu-west]\naddress = '10.0.0.1:5432'\n";
    let config = load_from(
        toml,
        &[
            ("MAINSTAY__POOL__MAX_SIZE", "30"),
            ("MAINSTAY__NODES__EU_WEST__WEIGHT", "3"),
            ("MAINSTAY__NODES__PRIMARY__ADDRESS", "10.0.0.2:5432"),
            ("MAINSTAY__TELEMETRY__LOG_FORMAT", "json"),
        ],
    )
    .expect("all values are legal");
    assert_eq!((config.pool.max_size, config.pool.weight), (30, 2.0));
    assert_eq!(config.server.listen.port(), 4030, "a default of the service, not of the section");
    assert_eq!(config.nodes["eu-west"].weight, 3);
    assert_eq!(config.nodes["eu-west"].address.to_string(), "10.0.0.1:5432");
    assert_eq!(config.nodes["primary"].address.port(), 5432);
    assert_eq!(config.telemetry.log_format, LogFormat::Json);
}

#[test]
fn variables_take_the_type_that_is_asked_for() {
    let config = load_from(
        "",
        &[
            ("MAINSTAY__POOL__ENABLED", "false"),
            ("MAINSTAY__POOL__PASSWORD", "12345"),
            ("MAINSTAY__POOL__SENTINELS", "10.0.0.1:26379, 10.0.0.2:26379"),
            ("MAINSTAY__POOL__PORTS", "1,2"),
            ("MAINSTAY__POOL__WEIGHT", "0.5"),
            ("MAINSTAY__POOL__PROXY", ""),
            ("MAINSTAY__POOL__CAPACITY", "2GiB"),
            ("MAINSTAY__POOL__WAIT_WITHIN", "250ms"),
            ("MAINSTAY__LOOSE__TITLE", "true"),
        ],
    )
    .expect("all values are legal");
    let pool = config.pool;
    assert!(!pool.enabled);
    assert_eq!(pool.password.expose(), "12345");
    assert_eq!(pool.sentinels, ["10.0.0.1:26379", "10.0.0.2:26379"]);
    assert_eq!(pool.ports, [1, 2]);
    assert_eq!((pool.weight, pool.proxy), (0.5, None));
    assert_eq!((pool.capacity, pool.wait_within), (bytesize::ByteSize::gib(2), Duration::from_millis(250)));
    assert_eq!(config.loose.title, "true", "a text stays a text");
}

#[test]
fn each_bad_value_is_told_with_its_key_and_its_source() {
    let known = "max_size, weight, enabled, password, sentinels, ports, proxy, capacity, wait_within";
    let pool_has = format!("pool.max_sise: unknown key, known here: {known} (file FILE)");
    let table: &[(&str, Variables<'_>, &str)] = &[
        ("[pool]\nmax_sise = 3", &[], &pool_has),
        ("[loose]\ntitel = 'x'", &[], "loose.titel: unknown key, known here: title (file FILE)"),
        ("[poool]\na = 1", &[], "poool: unknown key, known here: server, telemetry, pool, nodes, loose"),
        (
            "[pool]\nmax_size = 'many'",
            &[],
            "pool.max_size: invalid type: string \"many\", expected u16 (file FILE)",
        ),
        (
            "[pool]\nmax_size = 70000",
            &[],
            "pool.max_size: invalid value: integer `70000`, expected u16 (file FILE)",
        ),
        ("[pool]\nmax_size = 501", &[], "pool.max_size: must be between 1 and 500, is 501 (file FILE)"),
        (
            "[pool]\nports = [1, 'b']",
            &[],
            "pool.ports[1]: invalid type: string \"b\", expected u16 (file FILE)",
        ),
        ("[pool]\npassword = 12345", &[], "pool.password: has the wrong type, expected a string (file FILE)"),
        ("pool = 7", &[], "pool: invalid type: integer `7`, expected struct Pool (file FILE)"),
        ("[nodes.a]\nweight = 1", &[], "nodes.a: missing field `address`"),
        (
            "[telemetry]\nlog_format = 'xml'",
            &[],
            "telemetry.log_format: unknown variant `xml`, expected `human` or `json` (file FILE)",
        ),
        (
            "[telemetry]\nlog = 'inof'",
            &[],
            r#"telemetry.log: must be a level or a list like info,fred=warn, is "inof" (file FILE)"#,
        ),
        (
            "[telemetry]\notlp_endpoint = 'localhost:4317'",
            &[],
            "telemetry.otlp_endpoint: must read http://host:port, is \"localhost:4317\" (file FILE)",
        ),
        (
            "",
            &[("MAINSTAY__SERVER__LISTEN", "here")],
            "server.listen: invalid socket address syntax, is \"here\" (environment variable MAINSTAY__SERVER__LISTEN)",
        ),
        (
            "",
            &[("MAINSTAY__POOL__MAX_SIZE", "-1")],
            "pool.max_size: invalid type: string \"-1\", expected u16 (environment variable MAINSTAY__POOL__MAX_SIZE)",
        ),
        (
            "",
            &[("MAINSTAY__POOL__ENABLED", "maybe")],
            "pool.enabled: invalid type: string \"maybe\", expected a boolean (environment variable MAINSTAY__POOL__ENABLED)",
        ),
        ("", &[("MAINSTAY__POOL____SIZE", "1")], "MAINSTAY__POOL____SIZE: must read MAINSTAY__SECTION__KEY"),
        (
            "",
            &[("MAINSTAY__POOL__WAIT_WITHIN", "3h")],
            "pool.wait_within: must be between 0s and 30s, is 3h (environment variable MAINSTAY__POOL__WAIT_WITHIN)",
        ),
        (
            "",
            &[("MAINSTAY__POOL__PASSWORD_FILE", "/nowhere")],
            "pool.password_file: cannot read /nowhere: No such file or directory (os error 2) (environment variable MAINSTAY__POOL__PASSWORD_FILE)",
        ),
        ("[loose]\ntitle_file = '/dev/null'", &[], "loose.title_file: /dev/null is empty (file FILE)"),
        ("[pool\n", &[], "FILE: TOML parse error at line 1, column 6: unclosed table, expected `]`"),
    ];
    for (toml, variables, expected) in table {
        let problems = problems_of(toml, variables);
        assert!(
            problems.contains(&(*expected).to_owned()),
            "{toml} {variables:?}\n told {problems:#?}\n  not {expected}"
        );
        let most = if expected.contains("title_file") { 2 } else { 1 };
        assert!(problems.len() <= most, "{toml} {variables:?} told more than once: {problems:#?}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let toml = "
        [server]
        grcae = '3s'
        [pool]
        max_size = 0
        weight = 'heavy'
        [nodes.a]
        address = '10.0.0.1'
        weight = 1
        wieght = 2
        [nodes.b]
        address = '10.0.0.1:1'
        password_file = '/nowhere'
    ";
    let variables = [("MAINSTAY__POOL__ENABLED", "perhaps"), ("MAINSTAY__TELEMETRY__SAMPLE_RATIO", "7")];
    let problems = problems_of(toml, &variables);
    insta::assert_snapshot!(problems.join("\n"), @r#"
    nodes.a.address: invalid socket address syntax, is "10.0.0.1" (file FILE)
    nodes.a.wieght: unknown key, known here: address, weight, password (file FILE)
    nodes.b.password_file: cannot read /nowhere: No such file or directory (os error 2) (file FILE)
    pool.enabled: invalid type: string "perhaps", expected a boolean (environment variable MAINSTAY__POOL__ENABLED)
    pool.max_size: must be between 1 and 500, is 0 (file FILE)
    pool.weight: invalid type: string "heavy", expected f64 (file FILE)
    server.grcae: unknown key, known here: listen, instance, token, tls, max_in_flight, max_connections, default_deadline, header_within, drain_delay, grace (file FILE)
    telemetry.sample_ratio: must be between 0 and 1, is 7 (environment variable MAINSTAY__TELEMETRY__SAMPLE_RATIO)
    "#);
}

#[test]
fn secrets_come_from_files_without_their_last_line_end() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    for (content, secret) in
        [("s3cret", "s3cret"), ("s3cret\n", "s3cret"), ("s3cret\r\n", "s3cret"), ("a\nb\n\n", "a\nb\n")]
    {
        let path = dir.path().join("secret");
        std::fs::write(&path, content).expect("a temporary file can be written");
        let path = path.to_str().expect("temporary paths are UTF-8");
        let toml = format!("[nodes.a]\naddress = '10.0.0.1:1'\npassword_file = '{path}'");
        let config = load_from(&toml, &[("MAINSTAY__POOL__PASSWORD_FILE", path)]).expect("the file is there");
        assert_eq!(config.pool.password.expose(), secret);
        assert_eq!(config.nodes["a"].password.expose(), secret);
    }
}

#[test]
fn only_secrets_come_from_files_and_only_once() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let path = dir.path().join("text");
    std::fs::write(&path, "text").expect("a temporary file can be written");
    let toml = format!("[loose]\ntitle_file = '{}'", path.display());
    assert_eq!(problems_of(&toml, &[]), ["loose.title_file: unknown key, known here: title (file FILE)"]);

    let toml = format!("[pool]\npassword = 'x'\npassword_file = '{}'", path.display());
    assert_eq!(
        problems_of(&toml, &[]),
        ["pool.password_file: give this or pool.password, not both (file FILE)"]
    );

    let toml = format!("[pool]\npassword = ''\npassword_file = '{}'", path.display());
    let config = load_from(&toml, &[]).expect("an empty secret is not a given one");
    assert_eq!(config.pool.password.expose(), "text");
}

#[test]
fn printed_configuration_is_legal_and_hides_secrets() {
    let config =
        load_from("[pool]\npassword = 's3cret'\n[nodes.a]\naddress = '10.0.0.1:1'", &[]).expect("legal");
    let printed = toml::to_string_pretty(&config).expect("a config can be written as TOML");
    assert!(!printed.contains("s3cret"), "{printed}");
    assert!(printed.contains("password = \"[redacted]\""), "{printed}");
    load_from(&printed, &[]).expect("what was printed can be read");
}

#[test]
fn fingerprint_ignores_who_and_where_but_not_what() {
    let of = |toml: &str| fingerprint(&load_from(toml, &[]).expect("legal"));
    let base = of("");
    assert_eq!(base, of("[server]\nlisten = '127.0.0.1:1'\ninstance = 'b'"));
    assert_eq!(of("[pool]\npassword = 'x'"), of("[pool]\npassword = 'y'"));
    assert_ne!(base, of("[pool]\nmax_size = 17"));
}

#[test]
fn a_missing_file_is_one_problem() {
    let sources = Sources { file: Some("/nowhere/x.toml".into()), variables: BTreeMap::new() };
    let told = load::<Config>(&sources).expect_err("there is no such file");
    assert_eq!(told, ["/nowhere/x.toml: cannot be read: No such file or directory (os error 2)"]);
}

proptest! {
    #[test]
    fn no_variable_makes_the_reader_give_up(
        entries in proptest::collection::btree_map("(POOL|NODES|SERVER|X)(__[A-Z_]{1,6}){0,3}(_FILE)?", "[ -~]{0,8}", 0..6)
    ) {
        let variables = entries.into_iter().map(|(name, value)| (format!("MAINSTAY__{name}"), value)).collect();
        if let Err(lines) = load::<Config>(&Sources { file: None, variables }) {
            prop_assert!(!lines.is_empty());
            for line in lines {
                prop_assert!(line.contains(": "), "{}", line);
            }
        }
    }
}
