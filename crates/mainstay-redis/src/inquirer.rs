use std::fmt;
use std::io;

use mainstay_rpc::ClientTls;
use mainstay_runtime::Secret;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::config::Address;
use crate::resp::{self, Reply};
use crate::tls::{self, Stream};

/// Asks one server, or one Sentinel, how it is: for a look from outside, beside the connections of services.
///
/// It keeps one connection from question to question, and gives it up after any failure.
pub struct Inquirer {
    address: Address,
    username: String,
    password: Secret,
    tls: ClientTls,
    stream: Option<BufReader<Box<dyn Stream>>>,
}

/// Says why a server did not say how it is.
#[derive(Debug, thiserror::Error)]
pub enum InquiryError {
    /// There is no connection.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The connection broke, or what came is no answer of Redis.
    #[error("no answer")]
    Talk(#[source] io::Error),
    /// It does not let us in, or does not say it to us.
    #[error("refused: {0}")]
    Refused(String),
}

/// Longest answer that is taken; usual ones have some 7 KB.
const LONGEST_INFO: usize = 256 * 1024;

impl Inquirer {
    /// Prepares to ask; connects nowhere. Without a password nobody logs in; without `tls.ca` there is no TLS.
    pub fn new(address: Address, username: String, password: Secret, tls: ClientTls) -> Self {
        Self { address, username, password, tls, stream: None }
    }

    /// Returns the text of `INFO`. The caller sets the deadline; when it is dropped before its end, so is the connection.
    ///
    /// # Errors
    /// Fails when there is no connection, and none can be made, or the answer is none.
    pub async fn info(&mut self) -> Result<String, InquiryError> {
        if let Some(mut kept) = self.stream.take() {
            // What was kept may have ended with a restart of the server: that is no news, and a new one is made.
            if let Ok(info) = ask(&mut kept, &["INFO"]).await {
                self.stream = Some(kept);
                return Ok(info);
            }
        }
        let mut stream = self.connect().await?;
        let info = ask(&mut stream, &["INFO"]).await?;
        self.stream = Some(stream);
        Ok(info)
    }

    async fn connect(&mut self) -> Result<BufReader<Box<dyn Stream>>, InquiryError> {
        let address = (self.address.host.as_str(), self.address.port);
        let stream = TcpStream::connect(address).await.map_err(InquiryError::Connect)?;
        stream.set_nodelay(true).map_err(InquiryError::Connect)?;
        let stream = tls::secure(&self.tls, &self.address, stream).await.map_err(InquiryError::Connect)?;
        let mut stream = BufReader::new(stream);
        let password = self.password.expose();
        match (self.username.as_str(), password) {
            (_, "") => {}
            ("", password) => drop(ask(&mut stream, &["AUTH", password]).await?),
            (user, password) => drop(ask(&mut stream, &["AUTH", user, password]).await?),
        }
        Ok(stream)
    }
}

impl fmt::Debug for Inquirer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inquirer").field("address", &self.address).finish_non_exhaustive()
    }
}

async fn ask(stream: &mut BufReader<Box<dyn Stream>>, words: &[&str]) -> Result<String, InquiryError> {
    stream.write_all(&resp::encode(words)).await.map_err(InquiryError::Talk)?;
    match resp::read_up_to(stream, LONGEST_INFO).await.map_err(InquiryError::Talk)? {
        Reply::Text(text) => Ok(text),
        Reply::Error(reason) => Err(InquiryError::Refused(reason)),
        Reply::Nil | Reply::List(_) | Reply::Lists(_) => {
            Err(InquiryError::Talk(io::Error::new(io::ErrorKind::InvalidData, "the answer is no text")))
        }
    }
}
