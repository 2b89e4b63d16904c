//! A world of its own for each test: topics under a prefix that nobody else has, an empty database, and the processes
//! that the test starts. All of it goes when the test ends, however it ends.

pub mod avro;
pub mod http;
pub mod log;
pub mod process;

use std::{env, fmt, net::ToSocketAddrs, process::Stdio, thread, time::Duration};

use producers::{clock, kafka::Kafka};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};
use schemas::topics::TOPICS;
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool, Row, postgres::PgPoolOptions,
};
use tokio::{
    io::AsyncWriteExt,
    process::Command,
    time::{Instant, sleep, timeout},
};

pub use self::{log::Raw, process::Process};

/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(120);
const POLL_EVERY: Duration = Duration::from_millis(10);
/// How long a server may take to answer at all.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// How long a command may take.
pub const COMMAND_MAX: Duration = Duration::from_secs(180);
/// How much of what a command said is shown where a test fails, in characters.
const SHOWN_MAX: usize = 4_000;

/// Where the servers are.
#[derive(Debug, Clone)]
pub struct Servers {
    /// Kafka, `host:port`.
    pub brokers: String,
    /// The schema registry.
    pub registry_url: String,
    /// Postgres, with a database from which others can be made.
    pub postgres_url: String,
}

impl Default for Servers {
    /// The servers of `make test`, or those of `make servers`.
    fn default() -> Self {
        let given = |name, otherwise: &str| env::var(name).unwrap_or_else(|_| otherwise.to_owned());
        Self {
            brokers: given("MILLRACE_BROKERS", "127.0.0.1:19092"),
            registry_url: given(
                "MILLRACE_REGISTRY_URL",
                "http://127.0.0.1:18081/apis/ccompat/v7",
            ),
            postgres_url: given(
                "DATABASE_URL",
                "postgres://millrace@127.0.0.1:15432/millrace",
            ),
        }
    }
}

impl Servers {
    /// The address of another database on the same Postgres.
    fn database_url(&self, database: &str) -> String {
        let (server, _) = self.postgres_url.rsplit_once('/').unwrap();
        format!("{server}/{database}")
    }

    /// Where Postgres listens, `host:port`.
    pub fn postgres_address(&self) -> String {
        let url: reqwest::Url = self.postgres_url.parse().unwrap();
        format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5432))
    }

    /// What changes topics.
    pub fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .create()
            .unwrap()
    }

    async fn postgres(&self) -> sqlx::Result<PgConnection> {
        let options: sqlx::postgres::PgConnectOptions = self.postgres_url.parse()?;
        options.disable_statement_logging().connect().await
    }

    /// Runs a statement about databases, outside of any of a test's.
    pub async fn administer(&self, statement: &str) {
        let mut admin = self.postgres().await.unwrap();
        sqlx::query(AssertSqlSafe(statement.to_owned()))
            .execute(&mut admin)
            .await
            .unwrap();
        admin.close().await.unwrap();
    }

    /// Panics with one line unless all three answer.
    async fn must_answer(&self) {
        let absent = |server: &str, address: &str| -> ! {
            panic!(
                "{server} does not answer at {address}: run `make test`, which starts the servers"
            )
        };
        let kafka = self.brokers.split(',').next().unwrap_or_default();
        if !accepts(kafka).await {
            absent("Kafka", kafka);
        }
        let registry = self.registry_url.split('/').nth(2).unwrap_or_default();
        if !accepts(registry).await {
            absent("the schema registry", registry);
        }
        if !matches!(timeout(FIRST_ANSWER, self.postgres()).await, Ok(Ok(_))) {
            absent("Postgres", &self.postgres_url);
        }
    }
}

async fn accepts(address: &str) -> bool {
    let Some(address) = address
        .to_socket_addrs()
        .ok()
        .and_then(|mut all| all.next())
    else {
        return false;
    };
    let connect = tokio::net::TcpStream::connect(address);
    matches!(timeout(FIRST_ANSWER, connect).await, Ok(Ok(_)))
}

/// Asks again and again until there is an answer, and gives it.
///
/// # Panics
/// If there is none within [`PATIENCE`].
pub async fn eventually<T>(what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, probe).await
}

/// The same with another limit.
pub async fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(
            Instant::now() < deadline,
            "did not come to be within {patience:?}: {what}"
        );
        sleep(POLL_EVERY).await;
    }
}

/// What a command said.
#[derive(Clone)]
pub struct Output {
    /// The exit code.
    pub status: i32,
    /// What it answered.
    pub stdout: String,
    /// What went wrong.
    pub stderr: String,
}

impl fmt::Debug for Output {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let brief = |text: &str| text.chars().take(SHOWN_MAX).collect::<String>();
        out.debug_struct("Output")
            .field("status", &self.status)
            .field("stdout", &brief(&self.stdout))
            .field("stderr", &brief(&self.stderr))
            .finish()
    }
}

/// Runs a command to its end, with this as its standard input.
///
/// # Panics
/// If it cannot be started or takes longer than two minutes.
pub async fn run_to_end(command: Command, stdin: impl AsRef<[u8]>) -> Output {
    run_to_end_within(COMMAND_MAX, command, stdin).await
}

/// The same with another limit.
pub async fn run_to_end_within(
    limit: Duration,
    mut command: Command,
    stdin: impl AsRef<[u8]>,
) -> Output {
    let what = format!("{:?}", command.as_std());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut input = child.stdin.take().unwrap();
    let stdin = stdin.as_ref().to_vec();
    // A command that does not read has every right not to.
    tokio::spawn(async move { input.write_all(&stdin).await });
    let output = timeout(limit, child.wait_with_output()).await;
    let Ok(output) = output else {
        panic!("did not end within {limit:?}: {what}");
    };
    let output = output.unwrap();
    Output {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Topics, database and addresses of one test.
pub struct World {
    /// The servers.
    pub servers: Servers,
    /// What the names of its topics begin with.
    pub prefix: String,
    /// The name of its database.
    pub database: String,
    /// For requests to the registry.
    http: reqwest::Client,
    pool: PgPool,
    is_without_topics: bool,
}

impl World {
    /// A world on the servers of the environment, its topics applied. `name`: letters, digits and `_`.
    ///
    /// # Panics
    /// If a server does not answer.
    pub async fn new(name: &str) -> Self {
        Self::on(Servers::default(), name).await
    }

    /// A world on other servers.
    pub async fn on(servers: Servers, name: &str) -> Self {
        let mut world = Self::without_topics(servers, name).await;
        let applied = world.millrace(&["topics", "apply"], "").await;
        assert_eq!(applied.status, 0, "topics apply: {applied:?}");
        world.is_without_topics = false;
        world
    }

    /// A world in which nobody has run `millrace topics apply`.
    pub async fn without_topics(servers: Servers, name: &str) -> Self {
        servers.must_answer().await;
        let id = clock::event_id().simple().to_string();
        let name = format!("it_{name}_{}", &id[20..]);
        let prefix = format!("{}.", name.replace('_', "-"));
        Self::with_database(servers, name, prefix).await
    }

    /// Another database for the same topics. Processes of both share their consumer groups: run them one after the
    /// other, and let this world end before the first.
    pub async fn beside(&self) -> Self {
        let name = format!("{}_beside", self.database);
        Self::with_database(self.servers.clone(), name, self.prefix.clone()).await
    }

    async fn with_database(servers: Servers, database: String, prefix: String) -> Self {
        servers
            .administer(&format!("CREATE DATABASE {database}"))
            .await;
        let pool = PgPoolOptions::new()
            .max_connections(2)
            .connect_lazy(&servers.database_url(&database))
            .unwrap();
        Self {
            http: reqwest::Client::new(),
            prefix,
            database,
            pool,
            servers,
            is_without_topics: true,
        }
    }

    /// How a client reaches its topics.
    pub fn kafka(&self) -> Kafka {
        Kafka {
            brokers: self.servers.brokers.clone(),
            prefix: self.prefix.clone(),
            properties: Vec::new(),
        }
    }

    /// The full name of a topic.
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The address of its database.
    pub fn database_url(&self) -> String {
        self.servers.database_url(&self.database)
    }

    /// The settings of its processes.
    pub fn settings(&self) -> [(&'static str, String); 6] {
        [
            ("MILLRACE_BROKERS", self.servers.brokers.clone()),
            ("MILLRACE_REGISTRY_URL", self.servers.registry_url.clone()),
            ("DATABASE_URL", self.database_url()),
            ("MILLRACE_TOPIC_PREFIX", self.prefix.clone()),
            ("MILLRACE_LISTEN", "127.0.0.1:0".to_owned()),
            ("MILLRACE_LOG_FORMAT", "json".to_owned()),
        ]
    }

    /// Runs a command to its end.
    pub async fn millrace(&self, args: &[&str], stdin: &str) -> Output {
        self.millrace_with(args, stdin, &[]).await
    }

    /// Runs a command to its end, with more settings in its environment.
    pub async fn millrace_with(&self, args: &[&str], stdin: &str, env: &[(&str, &str)]) -> Output {
        let mut command = Command::new(process::BINARY);
        process::forget_environment(command.as_std_mut());
        command
            .args(args)
            .envs(self.settings())
            .envs(env.iter().copied());
        let output = run_to_end(command, stdin).await;
        assert!(
            !output.stderr.contains("panicked"),
            "millrace {}: {output:?}",
            args.join(" ")
        );
        output
    }

    /// Starts `run`, `api` or `process`, and waits until it is ready.
    pub async fn start<const N: usize>(&self, args: [&str; N]) -> Process {
        let mut process = self.spawn(&args, &[]);
        process.ready().await;
        process
    }

    /// Starts a process with more settings in its environment, and does not wait for it.
    pub fn spawn(&self, args: &[&str], env: &[(&str, &str)]) -> Process {
        let mut all: Vec<(&str, String)> = self.settings().into();
        all.extend(env.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Process::spawn(args, &all)
    }

    /// The rows of a query, each as a JSON object.
    pub async fn sql(&self, query: &str) -> Vec<Value> {
        let query = format!("SELECT coalesce(json_agg(q), '[]')::text FROM ({query}) AS q");
        let row = sqlx::query(AssertSqlSafe(query))
            .fetch_one(&self.pool)
            .await
            .unwrap();
        serde_json::from_str(row.get(0)).unwrap()
    }

    /// Runs statements that give no rows.
    pub async fn execute(&self, statements: &str) {
        let statements = AssertSqlSafe(statements.to_owned());
        sqlx::raw_sql(statements).execute(&self.pool).await.unwrap();
    }

    /// Waits until the live tables of a projection have everything that is on its topic now.
    pub async fn caught_up(&self, projection: &str) {
        let ends = self.ends(&topic_of(projection)).await;
        let query = format!(
            "SELECT partition, next_offset FROM millrace.checkpoints WHERE projection = '{projection}' AND live"
        );
        eventually(
            &format!("{projection} has everything up to {ends:?}"),
            async || {
                let reached = self.sql_or_none(&query).await?;
                let has = |partition: i32, end: i64| {
                    end == 0
                        || reached.iter().any(|row| {
                            row["partition"] == partition
                                && row["next_offset"].as_i64() >= Some(end)
                        })
                };
                let mut partitions = (0..).zip(&ends);
                partitions
                    .all(|(partition, end)| has(partition, *end))
                    .then_some(())
            },
        )
        .await;
    }

    /// The rows of a query; none if it fails, as it does while nobody has made the tables.
    pub async fn sql_or_none(&self, query: &str) -> Option<Vec<Value>> {
        let query = format!("SELECT coalesce(json_agg(q), '[]')::text FROM ({query}) AS q");
        let row = sqlx::query(AssertSqlSafe(query))
            .fetch_one(&self.pool)
            .await
            .ok()?;
        serde_json::from_str(row.get(0)).ok()
    }

    /// Makes a topic that is not as it has to be.
    pub async fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let name = self.topic(name);
        let mut topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let made = self
            .servers
            .admin()
            .create_topics([&topic], &AdminOptions::new())
            .await;
        made.unwrap().remove(0).unwrap();
    }

    /// Drops the topics, also those that the world did not make.
    pub async fn drop_topics(&self) {
        drop_topics(&self.servers, &self.topics()).await;
    }

    /// The full names of all topics, in the order in which people list them.
    pub fn topics(&self) -> Vec<String> {
        let all = TOPICS.iter();
        all.map(|topic| topic.full_name(&self.prefix)).collect()
    }
}

/// The topic of a projection.
pub fn topic_of(projection: &str) -> String {
    projection.replace('_', "-")
}

/// As far as it goes.
async fn drop_topics(servers: &Servers, topics: &[String]) {
    let names: Vec<_> = topics.iter().map(String::as_str).collect();
    let options = AdminOptions::new().request_timeout(Some(FIRST_ANSWER));
    let _ = servers.admin().delete_topics(&names, &options).await;
    let http = reqwest::Client::new();
    for topic in topics {
        let subject = format!("{}/subjects/{topic}-value", servers.registry_url);
        let _ = http.delete(subject).timeout(FIRST_ANSWER).send().await;
    }
}

impl Drop for World {
    /// Drops the database and the topics; what cannot be dropped stays.
    fn drop(&mut self) {
        let servers = self.servers.clone();
        let database = self.database.clone();
        let topics = self.topics();
        let has_topics = !self.is_without_topics;
        let tidy = async move {
            if let Ok(mut admin) = servers.postgres().await {
                let statement = format!("DROP DATABASE {database} WITH (FORCE)");
                let _ = sqlx::query(AssertSqlSafe(statement))
                    .execute(&mut admin)
                    .await;
            }
            if has_topics {
                drop_topics(&servers, &topics).await;
            }
        };
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
        };
        // The test's own runtime may be on its way out.
        let tidied = thread::spawn(move || runtime().map(|runtime| runtime.block_on(tidy))).join();
        drop(tidied);
    }
}
