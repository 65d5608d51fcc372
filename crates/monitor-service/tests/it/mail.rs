//! Email over real SMTP with real TLS.

use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::ComponentKind;
use monitor_service::config::{ChannelConfig, ChannelKind};
use parking_lot::Mutex;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::harness::{PATIENCE, Spawned, TargetService, Watcher, wait_for};
use crate::notify::telling;

/// A mail server that speaks TLS after STARTTLS and takes everything from whoever logs in.
struct Sink {
    port: u16,
    ca: tempfile::NamedTempFile,
    taken: Arc<Mutex<Vec<Mail>>>,
    _server: Spawned,
}

#[derive(Debug, Clone, Default)]
struct Mail {
    encrypted: bool,
    login: String,
    from: String,
    to: Vec<String>,
    text: String,
}

impl Sink {
    async fn start() -> Self {
        let made =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate is made");
        let ca = tempfile::NamedTempFile::new().expect("a file is made");
        std::fs::write(ca.path(), made.cert.pem()).expect("the file is ours");
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())
            .expect("the key is one");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring knows them")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("key and certificate belong together");
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port is there");
        let port = listener.local_addr().expect("it is bound").port();
        let taken: Arc<Mutex<Vec<Mail>>> = Arc::default();
        let store = Arc::clone(&taken);
        let server = Spawned::new(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that goes away in the middle is its own affair.
                let _ = talk(stream, &acceptor, &store).await;
            }
        });
        Self { port, ca, taken, _server: server }
    }

    fn channel(&self) -> ChannelConfig {
        ChannelConfig {
            kind: ChannelKind::Email,
            url: format!("smtp://localhost:{}", self.port).into(),
            from: "monitor@example.org".to_owned(),
            to: vec!["ann@example.org".to_owned(), "bob@example.org".to_owned()],
            user: "monitor".to_owned(),
            token: "password".into(),
            ca: self.ca.path().to_owned(),
            allow_private: true,
            ..ChannelConfig::default()
        }
    }
}

async fn talk(stream: TcpStream, acceptor: &TlsAcceptor, taken: &Mutex<Vec<Mail>>) -> std::io::Result<()> {
    let mut plain = BufReader::new(stream);
    plain.write_all(b"220 sink\r\n").await?;
    if session(&mut plain, false, taken).await? {
        let mut secure = BufReader::new(acceptor.accept(plain.into_inner()).await?);
        session(&mut secure, true, taken).await?;
    }
    Ok(())
}

/// Speaks until the client is gone, or wants TLS: then true.
async fn session<S>(stream: &mut S, encrypted: bool, taken: &Mutex<Vec<Mail>>) -> std::io::Result<bool>
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    let mut mail = Mail { encrypted, ..Mail::default() };
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(false);
        }
        let (word, rest) = line.trim_end().split_at(line.trim_end().len().min(4));
        let answer = match word.to_ascii_uppercase().as_str() {
            "EHLO" if encrypted => "250-sink\r\n250 AUTH PLAIN\r\n",
            "EHLO" => "250-sink\r\n250 STARTTLS\r\n",
            "STAR" => {
                stream.write_all(b"220 go\r\n").await?;
                return Ok(true);
            }
            "AUTH" => {
                mail.login = rest.trim().to_owned();
                "235 in\r\n"
            }
            "MAIL" => {
                mail.from = rest.to_owned();
                "250 ok\r\n"
            }
            "RCPT" => {
                mail.to.push(rest.to_owned());
                "250 ok\r\n"
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                while !mail.text.ends_with("\r\n.\r\n") && stream.read_line(&mut mail.text).await? > 0 {}
                taken.lock().push(mail.clone());
                "250 taken\r\n"
            }
            "QUIT" => "221 bye\r\n",
            _ => "250 ok\r\n",
        };
        stream.write_all(answer.as_bytes()).await?;
    }
}

#[tokio::test]
async fn email_arrives_over_tls_and_says_what_happened() {
    let sink = Sink::start().await;
    let target = TargetService::start("cache-service").await;
    let redis = target.cx.component("redis", ComponentKind::Datastore, true);
    redis.unhealthy("connection refused");
    let watcher = Watcher::start(telling(&target, &[("mail", sink.channel())])).await;
    let mail = wait_for(PATIENCE, async || {
        sink.taken.lock().first().cloned().ok_or_else(|| "nothing taken".to_owned())
    })
    .await;
    assert!(mail.encrypted && mail.login.starts_with("PLAIN "), "{mail:?}");
    assert!(mail.from.contains("monitor@example.org") && mail.to.len() == 2, "{mail:?}");
    for part in
        ["Subject: [CRITICAL] cache-service component_unhealthy", "References: <alert.", "endpoint: http://"]
    {
        assert!(mail.text.contains(part), "{part} is not in {}", mail.text);
    }
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn mail_server_that_nobody_vouches_for_is_told_nothing() {
    let sink = Sink::start().await;
    let target = TargetService::start("cache-service").await;
    let mut channel = sink.channel();
    channel.ca = std::path::PathBuf::new();
    channel.within = Duration::from_secs(2);
    let watcher = Watcher::start(telling(&target, &[("mail", channel)])).await;
    let failure = watcher.test_channel("mail").await.expect_err("its certificate is unknown");
    assert_eq!(failure.reason(), "DELIVERY_FAILED");
    assert_eq!(sink.taken.lock().len(), 0);
    watcher.cx.shut_down().await;
}
