//! Short conversations with PostgreSQL: one connection each, every one with a deadline.

use std::{future::Future, net::SocketAddr, time::Duration};

use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::{Error, wait::TimedOut};

pub(crate) fn config(address: SocketAddr, database: &str, user: &str, password: &str) -> Config {
    let mut config = Config::new();
    config
        .host(address.ip().to_string())
        .port(address.port())
        .dbname(database)
        .user(user)
        .password(password)
        .application_name("mainstay-devstack");
    config
}

/// Runs statements by the simple protocol and returns the first column of the first row.
pub(crate) async fn query_text(
    config: &Config,
    sql: &str,
    within: Duration,
) -> Result<Option<String>, Error> {
    let messages =
        with_client(config, sql, within, |client: Client| async move { client.simple_query(sql).await })
            .await?;
    Ok(messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}

/// Runs a script of statements.
pub(crate) async fn batch(config: &Config, step: &str, sql: &str, within: Duration) -> Result<(), Error> {
    with_client(config, step, within, |client: Client| async move { client.batch_execute(sql).await }).await
}

async fn with_client<T, F, Fut>(config: &Config, step: &str, within: Duration, work: F) -> Result<T, Error>
where
    F: FnOnce(Client) -> Fut,
    Fut: Future<Output = Result<T, tokio_postgres::Error>>,
{
    let talk = async {
        let (client, connection) = config.connect(NoTls).await?;
        let mut connection = std::pin::pin!(connection);
        let mut work = std::pin::pin!(work(client));
        let mut open = true;
        loop {
            // The connection ends first when the server goes away; then the work sees that as its own error.
            tokio::select! {
                done = &mut work => return done,
                ended = &mut connection, if open => match ended {
                    Ok(()) => open = false,
                    Err(error) => return Err(error),
                },
            }
        }
    };
    match timeout(within, talk).await {
        Ok(done) => done.map_err(Error::sql(step)),
        Err(_) => Err(TimedOut { what: step.to_owned(), within, last: "no answer yet".to_owned() }.into()),
    }
}
