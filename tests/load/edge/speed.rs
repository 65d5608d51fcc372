use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use mainstay_proto::cache::v1::GetRequest;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_tests::cpu_time;
use tokio::sync::Mutex;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;

use crate::client::Client;
use crate::pace::paced;
use crate::server::Server;
use crate::{bar, figure, percentile};

const PATH: &str = "/cache/bench/key";
const PER_SECOND: u32 = 1_000;
const CALLS: u32 = 5_000;
const ADDED_BAR_MS: f64 = 2.0;
const CONNECTIONS: usize = 32;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
const SHARE_BAR: f64 = 0.7;

/// What the edge adds to a direct call of the cache, at 1,000 calls a second.
pub(crate) async fn added(
    (edge, key): (SocketAddr, &str),
    (cache, token): (SocketAddr, &str),
) -> anyhow::Result<()> {
    let channel = Endpoint::from_shared(format!("http://{cache}"))?.tcp_nodelay(true).connect_lazy();
    let token: MetadataValue<Ascii> = format!("Bearer {token}").parse()?;
    let authorize = move |mut request: Request<()>| {
        request.metadata_mut().insert("authorization", token.clone());
        Ok(request)
    };
    let direct = CacheServiceClient::with_interceptor(channel, authorize);
    let direct = paced(PER_SECOND, CALLS, move |_| {
        let mut client = direct.clone();
        async move {
            let request =
                GetRequest { namespace: "bench".to_owned(), key: "key".to_owned(), ..GetRequest::default() };
            client.get(request).await?;
            Ok(())
        }
    });
    let direct = direct.await?;
    let connect = (0..CONNECTIONS).map(|_| Client::connect(edge, PATH, key));
    let through: Vec<_> =
        try_join_all(connect).await?.into_iter().map(|one| Arc::new(Mutex::new(one))).collect();
    let through = paced(PER_SECOND, CALLS, move |number| {
        let client = Arc::clone(&through[number as usize % CONNECTIONS]);
        async move { client.lock().await.ask().await }
    });
    let through = through.await?;
    println!("a cached key over REST and by gRPC, {PER_SECOND}/s, ms from when a call was due");
    let told = |times: &Histogram<u64>| {
        let at = |share| times.value_at_quantile(share) as f64 / 1e3;
        format!("{:.2} / {:.2} / {:.2}", at(0.5), at(0.95), at(0.99))
    };
    figure("gRPC, p50 / p95 / p99", told(&direct));
    figure("REST through the edge, p50 / p95 / p99", told(&through));
    let at = |times: &Histogram<u64>| times.value_at_quantile(0.95) as f64 / 1e3;
    let added = at(&through) - at(&direct);
    bar("added at p95, ms", added, "< 2", added < ADDED_BAR_MS);
    Ok(())
}

/// Requests per second through the edge to the cache, and through a bare axum server to an empty tonic handler, in turns.
pub(crate) async fn beside_the_pair(edge: SocketAddr, edge_pid: u32, key: &str) -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    let (echo, front) = (Server::free()?, Server::free()?);
    let (echo_text, front_text) = (echo.to_string(), front.to_string());
    let _echo = Server::spawn(&program, &["echo", &echo_text], Vec::new(), echo).await?;
    let bare = Server::spawn(&program, &["axum", &front_text, &echo_text], Vec::new(), front).await?;
    let (mut shares, mut edge_us, mut bare_us) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = bare.cpu_us()?;
        let n_bare = answered(front, key).await?;
        bare_us.push((bare.cpu_us()? - before) / n_bare);
        let before = cpu_time(edge_pid)?;
        let n_edge = answered(edge, key).await?;
        edge_us.push((cpu_time(edge_pid)? - before).as_secs_f64() * 1e6 / n_edge);
        shares.push(n_edge / n_bare);
        ours.push(n_edge / ROUND.as_secs_f64());
        theirs.push(n_bare / ROUND.as_secs_f64());
    }
    println!("{CONNECTIONS} connections, each with one request at a time; {ROUNDS} rounds in turns, medians");
    figure("bare axum and tonic pair, requests/s", format!("{:.0}", percentile(&mut theirs, 0.5)));
    figure("edge and cache, requests/s", format!("{:.0}", percentile(&mut ours, 0.5)));
    figure("CPU of bare axum a request, us", format!("{:.1}", percentile(&mut bare_us, 0.5)));
    figure("CPU of the edge a request, us", format!("{:.1}", percentile(&mut edge_us, 0.5)));
    let share = percentile(&mut shares, 0.5);
    bar("edge against the pair", share, ">= 0.70", share >= SHARE_BAR);
    Ok(())
}

/// Counts what is answered within one round.
async fn answered(address: SocketAddr, key: &str) -> anyhow::Result<f64> {
    let clients = try_join_all((0..CONNECTIONS).map(|_| Client::connect(address, PATH, key))).await?;
    let ends_at = Instant::now() + ROUND;
    let asking = clients.into_iter().map(|mut client| async move {
        let mut answered = 0_u32;
        while Instant::now() < ends_at {
            client.ask().await?;
            answered += 1;
        }
        anyhow::Ok(answered)
    });
    Ok(try_join_all(asking).await?.into_iter().map(f64::from).sum())
}
