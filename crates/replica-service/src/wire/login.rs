use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_postgres::{Config, tls::MakeTlsConnect};

use super::{
    READ_BYTES, Stream, Wire, WireError,
    commands::{self, Commands},
    loan::{LendingTls, Loan},
};
use crate::pool::{KEEPALIVE_AFTER, Tls};

/// How to log in to one server.
pub(crate) struct Login {
    /// `host:port`.
    pub address: Arc<str>,
    pub host: Arc<str>,
    pub config: Config,
    pub tls: Tls,
    /// How long a statement may take where nothing else is said; `None` where the session is shared with others.
    pub within: Option<Duration>,
}

impl Login {
    /// Connects and logs in.
    ///
    /// The driver does that, TLS and SCRAM included; then its socket is ours. Nothing is lost between: a server that has let
    /// somebody in says nothing before it is asked, and what it says when it must go is followed by the end of the stream.
    pub(crate) async fn open(&self) -> Result<Wire, WireError> {
        let socket = TcpStream::connect(&*self.address).await?;
        socket.set_nodelay(true)?;
        SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_AFTER))?;
        let plain = Loan::new(socket);
        let mut tls = self.tls.clone();
        let connect = MakeTlsConnect::<Loan<TcpStream>>::make_tls_connect(&mut tls, &self.host)
            .map_err(|error| WireError::Tls(error.into()))?;
        let lent = Loan::none();
        let secured = LendingTls { connect, lent: lent.clone() };
        let (client, connection) = self.config.connect_raw(plain.clone(), secured).await?;
        let token = client.cancel_token();
        let stream: Box<dyn Stream> = match lent.take_back() {
            Some(stream) => Box::new(stream),
            None => Box::new(plain.take_back().ok_or(WireError::Closed)?),
        };
        drop((client, connection));
        let mut wire = Wire {
            stream,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            flushed: true,
            read_bytes: READ_BYTES,
            n_to_drop: 0,
            n_received: 0,
            n_sent: 0,
            unanswered: 0,
            token,
            commands: Commands::SHARED_SESSION,
            types: HashMap::new(),
            next_name: 0,
        };
        if let Some(within) = self.within {
            commands::prepare(&mut wire, within).await?;
        }
        Ok(wire)
    }
}
