//! Nodes that send their clients away.

use mainstay_proto::realtime::v1::{DrainRequest, DrainResponse};
use mainstay_rpc::Failure;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::client::Client;
use crate::cluster::{redis, single};
use crate::node::{Node, PATIENCE, token, user};
use crate::peers::{Process, short_leased};

const N_CLIENTS: u32 = 40;
const PER_SECOND: u32 = 40;

impl Node {
    async fn drain(&self, node: &str, per_second: u32, cancel: bool) -> Result<DrainResponse, Failure> {
        let request = DrainRequest { node: node.to_owned(), connections_per_second: per_second, cancel };
        self.grpc("Drain", request, async |mut api, request| api.drain(request).await).await
    }
}

/// Waits until everybody has been told to go; returns how long that took from the first to the last in milliseconds.
async fn sent_away(clients: Vec<Client>) -> u128 {
    let ends = clients.into_iter().map(|mut client| async move {
        assert_eq!(client.end().await, (3001, "shutdown".to_owned()));
        Instant::now()
    });
    let ends = futures_util::future::join_all(ends).await;
    let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    last.duration_since(*first).as_millis()
}

#[tokio::test]
async fn a_node_is_drained_through_another_at_the_pace_asked_for_and_may_come_back() {
    let stack = redis().await;
    let [one, two] =
        [Node::joined(short_leased(single(&stack))).await, Node::joined(short_leased(single(&stack))).await];
    one.knows(2).await;
    let id = two.state().await.id;
    let mut clients = Vec::new();
    for n in 0..N_CLIENTS {
        clients.push(Client::connected(&two, &token(&user(&n.to_string()))).await);
    }
    let stays = Client::connected(&one, &token(&user("stays"))).await;

    assert_eq!(one.drain("nobody", 0, false).await.unwrap_err().reason(), "NODE_UNKNOWN");
    assert_eq!(one.drain(&id, 1_000_001, false).await.unwrap_err().reason(), "PACE_INVALID");
    let begun = one.drain(&id, PER_SECOND, false).await.unwrap();
    assert_eq!((begun.node.as_str(), begun.connections), (&*id, N_CLIENTS.into()));
    assert_eq!(begun.takes.unwrap().seconds, 1);
    assert!(Client::try_open(&two, "", &[]).await.is_err());
    // 40 at 40 per second, two at a time: 19 waits of 25 to 75 ms.
    let took_ms = sent_away(clients).await;
    assert!(took_ms >= 19 * 25, "all within {took_ms} ms");
    two.wait_until_empty().await;
    assert!(two.state().await.draining);
    two.wait_for_metric(&format!("mainstay_ws_drained_total {N_CLIENTS}")).await;

    assert_eq!(one.drain(&id, 0, true).await.unwrap().takes, None);
    let back = Client::connected(&two, &token(&user("back"))).await;
    drop((stays, back));
    for node in [&one, &two] {
        node.wait_until_empty().await;
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_process_that_is_told_to_end_sends_its_clients_away_at_a_pace_and_ends_well() {
    let stack = redis().await;
    let dir = tempfile::tempdir().unwrap();
    let more = format!("[drain]\nconnections_per_second = {PER_SECOND}\n");
    let mut process = Process::start(dir.path(), &single(&stack), &more).await;
    let mut clients = Vec::new();
    for n in 0..N_CLIENTS {
        let client = Client::open_at(process.websocket, "", &[]).await.unwrap();
        clients.push(client.connect(&token(&user(&n.to_string()))).await);
    }
    kill_process(Pid::from_child(&process.child), Signal::TERM).unwrap();
    let took_ms = sent_away(clients).await;
    assert!(took_ms >= 19 * 25, "all within {took_ms} ms");
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = process.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "the process does not end");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert!(status.success(), "{status}");
    stack.stop().await.unwrap();
}
