//! Many channels with few subscribers each, in place of one with many: what a delivery costs where every publication is
//! for ten.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use tokio::time::{Instant, sleep};

use super::client::Tally;
use super::gateway::{self, Gateway};
use super::latency::Audience;
use super::{
    BURST, DATA_BYTES, DELIVERIES_BAR, SETTLE, arrived, bare_latency, connect_all, latency, verdict,
};

/// Channels that one call names at most.
const CHANNELS_OF_CALL: usize = 1_000;

/// How long deliveries are counted.
#[derive(Clone, Copy)]
pub(crate) struct Length(pub(crate) Duration);

/// Connects, publishes as fast as everybody can read, then at half of that rate, and prints both.
pub(crate) async fn run(
    program: &Path,
    n_connections: usize,
    n_channels: usize,
    length: Length,
) -> anyhow::Result<()> {
    let each = n_connections / n_channels;
    ensure!(
        each * n_channels == n_connections,
        "as many connections in each channel: {n_connections} in {n_channels}"
    );
    let gateway = Gateway::start(program, &[]).await?;
    let tally = Arc::new(Tally::new());
    println!("{n_channels} channels with {each} connections each");
    let clients = connect_all(gateway.websocket, 0, n_connections, n_channels, &tally).await?;
    sleep(SETTLE).await;
    let per_second = throughput(&gateway, n_channels, each, &tally, length).await?;
    let (audience, Length(length)) = (Audience { n_channels, each }, length);
    latency(&gateway, audience, per_second, length, &tally).await?;
    drop((clients, gateway));
    bare_latency(audience, per_second, length).await
}

/// Publishes bursts into one channel after the other; gives the deliveries per second of this run.
async fn throughput(
    gateway: &Gateway,
    n_channels: usize,
    each: usize,
    tally: &Tally,
    Length(length): Length,
) -> anyhow::Result<f64> {
    let mut api = gateway.api().await?;
    let (received, cpu, began_at) = (tally.received(), gateway.cpu()?, Instant::now());
    let (mut expected, mut before) = (received, received);
    let all: Vec<usize> = (0..n_channels).collect();
    while began_at.elapsed() < length {
        for some in all.chunks(CHANNELS_OF_CALL / BURST) {
            let channels = some.iter().flat_map(|&index| vec![gateway::channel(index, n_channels); BURST]);
            let call = gateway::publication(channels.collect(), tally.now_us(), DATA_BYTES);
            api.broadcast(call).await?;
            expected += tally.will_receive(BURST * some.len() * each);
        }
        // One round may be on its way while the next is published; more would only fill the outboxes.
        arrived(tally, before).await?;
        before = expected;
    }
    arrived(tally, expected).await?;
    let (took, cpu) = (began_at.elapsed(), gateway.cpu()? - cpu);
    let deliveries = (expected - received) as f64;
    let (per_second, per_core) = (deliveries / took.as_secs_f64(), deliveries / cpu.as_secs_f64());
    println!(
        "  fan-out, bursts     {per_second:>10.0} deliveries/s, {per_core:.0} per core and second  {}",
        verdict(per_core >= DELIVERIES_BAR, DELIVERIES_BAR)
    );
    Ok(per_second)
}
