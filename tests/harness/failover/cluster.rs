//! The same for a Redis Cluster, one shard of which loses its primary.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use mainstay_devstack::{Devstack, RedisCluster, RedisNode, RedisReply, Service, wait_until};
use tokio::time::{Instant, sleep, sleep_until};

use super::ledger::Ledger;
use super::{Answer, FailoverOutcome, FailoverPlan, NAMESPACE, OFTEN, PATIENCE, PREFIX, connect, key, write};
use crate::binaries::bin_dir;

/// Where a namespace lies.
struct Home<'c> {
    primary: &'c RedisNode,
    slot: u16,
    /// Of all keys that lie with it.
    prefix: String,
}

impl FailoverPlan {
    /// Starts a cluster of three primaries with a replica each and a cache-service, and kills the primary of the namespace that is
    /// written to. All writes are sets: counters lie on all shards, and those of the others would go on.
    ///
    /// # Errors
    /// Fails when the stack does not run, or does not come back.
    pub async fn run_in_cluster(self) -> anyhow::Result<FailoverOutcome> {
        let builder = Devstack::builder().redis_cluster(true).services([Service::CacheService]);
        let builder = builder.env(Service::CacheService, "MAINSTAY__SERVER__TOKEN", "");
        let stack = builder.bin_dir(bin_dir()).start().await?;
        let channel = connect(&stack).await?;
        let cluster = stack.redis_cluster().context("the stack has a cluster")?;
        wait_until("a first write", OFTEN, PATIENCE, || async {
            let answer = write(channel.clone(), 0).await;
            if answer == Answer::Acknowledged { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await?;
        let home = home(cluster).await?;
        let ledger = Arc::new(Ledger::default());
        let sets = (2..).step_by(2);
        let (written, named_after) =
            tokio::join!(self.write(&channel, &ledger, sets), self.kill(cluster, &home));
        let named_after = named_after?;
        ensure!(written > 0, "nothing was written");
        cluster.wait_settled().await?;
        let outcome = ledger.audit(cluster.owner(home.slot).await?, &home.prefix).await?;
        stack.stop().await?;
        Ok(FailoverOutcome { named_after, ..outcome })
    }

    /// Kills the primary, starts it again after its time, and returns how long it took until another had its slots.
    async fn kill(&self, cluster: &RedisCluster, home: &Home<'_>) -> anyhow::Result<std::time::Duration> {
        sleep(self.quiet_for).await;
        let killed_at = Instant::now();
        home.primary.kill().await?;
        let named_after = wait_until("a replica to be promoted", OFTEN, PATIENCE, || async {
            cluster.owner(home.slot).await.map(|_| killed_at.elapsed()).map_err(|error| error.to_string())
        })
        .await?;
        sleep_until(killed_at + self.away_for).await;
        home.primary.start().await?;
        Ok(named_after)
    }
}

/// Finds the primary that has the first entry.
async fn home(cluster: &RedisCluster) -> anyhow::Result<Home<'_>> {
    let entry = format!("{NAMESPACE}:{}", key(0));
    for node in cluster.nodes() {
        let RedisReply::List(keys) = node.command(&["KEYS", &format!("{PREFIX}*{entry}")]).await? else {
            continue;
        };
        let Some(name) = keys.iter().find_map(RedisReply::text) else { continue };
        let RedisReply::Integer(slot) = node.command(&["CLUSTER", "KEYSLOT", name]).await? else { continue };
        let slot = u16::try_from(slot)?;
        let prefix = name.strip_suffix(&entry).context("it was looked for so")?.to_owned();
        // A replica has it, too.
        return Ok(Home { primary: cluster.owner(slot).await?, slot, prefix });
    }
    anyhow::bail!("nobody has {entry}")
}
