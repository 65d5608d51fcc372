//! One connection that is kept from question to question.

use std::pin::Pin;
use std::sync::Arc;

use mainstay_rpc::{ClientTls, InvalidTls, client_tls};
use tokio::net::TcpStream;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::one_line;
use crate::config::DatastoreConfig;

/// Asks one server in the simple protocol; a connection is given up after any failure.
pub(super) struct Line {
    login: Config,
    address: String,
    /// Name in the certificate.
    domain: String,
    tls: ClientTls,
    open: Option<Open>,
}

/// A connection runs only while something is asked over it: there is no task that could outlive its owner.
struct Open {
    client: Client,
    connection: Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>,
}

impl Line {
    pub(super) fn try_new(
        address: &str,
        config: &DatastoreConfig,
        database: &str,
    ) -> Result<Self, InvalidTls> {
        let mut login = Config::new();
        login.user(&config.user).dbname(database).application_name("mainstay-monitor");
        if !config.password.is_empty() {
            login.password(config.password.expose());
        }
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let domain = if config.tls.domain.is_empty() { host } else { &config.tls.domain };
        let is_secure = client_tls(&config.tls)?.is_some();
        login.ssl_mode(if is_secure { SslMode::Require } else { SslMode::Disable });
        let (domain, tls) = (domain.to_owned(), config.tls.clone());
        Ok(Self { login, address: address.to_owned(), domain, tls, open: None })
    }

    /// Asks one question and returns all rows; the error is one line for a person. The caller sets the deadline; when it
    /// is dropped before its end, so is the connection.
    pub(super) async fn ask(&mut self, question: &str) -> Result<Vec<SimpleQueryRow>, String> {
        if let Some(mut kept) = self.open.take() {
            // What was kept may have ended with a restart of the server: that is no news, and a new one is made.
            match kept.ask(question).await {
                Ok(rows) => {
                    self.open = Some(kept);
                    return Ok(rows);
                }
                Err(error) if error.as_db_error().is_some() && !kept.client.is_closed() => {
                    return Err(told(&error));
                }
                Err(_) => {}
            }
        }
        let mut open = self.connect().await?;
        let rows = open.ask(question).await.map_err(|error| told(&error))?;
        self.open = Some(open);
        Ok(rows)
    }

    async fn connect(&mut self) -> Result<Open, String> {
        let refused = |error: std::io::Error| format!("cannot connect: {error}");
        let stream = TcpStream::connect(&self.address).await.map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        // Certificates are read for every connection: replaced ones are used without a restart.
        let Some(config) = client_tls(&self.tls).map_err(|error| one_line(&error))? else {
            let (client, connection) =
                self.login.connect_raw(stream, NoTls).await.map_err(|error| told(&error))?;
            return Ok(Open { client, connection: Box::pin(connection) });
        };
        let mut config = Arc::unwrap_or_clone(config);
        config.alpn_protocols.clear();
        let mut maker = MakeRustlsConnect::new(config);
        let connector = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut maker, &self.domain)
            .map_err(|error| one_line(&error))?;
        let connected = self.login.connect_raw(stream, connector).await;
        let (client, connection) = connected.map_err(|error| told(&error))?;
        Ok(Open { client, connection: Box::pin(connection) })
    }
}

impl Open {
    async fn ask(&mut self, question: &str) -> Result<Vec<SimpleQueryRow>, tokio_postgres::Error> {
        let asked = self.client.simple_query(question);
        tokio::pin!(asked);
        let messages = tokio::select! {
            biased;
            messages = &mut asked => messages?,
            ended = &mut self.connection => {
                ended?;
                // It ended in order, so what is asked over it ends, too.
                asked.await?
            }
        };
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }
}

fn told(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{} ({})", error.message(), error.code().code()),
        None => one_line(error),
    }
}
