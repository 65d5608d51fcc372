//! A backend that implements `mainstay.realtime.v1.RealtimeBackend`.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use mainstay_auth::jwt::Overrides;
use mainstay_proto::realtime::v1::realtime_backend_client::RealtimeBackendClient;
use mainstay_proto::realtime::v1::{
    BackendConnectResponse, BackendPublishResponse, BackendRefreshResponse, BackendRpcRequest,
    BackendRpcResponse, BackendSubRefreshResponse, BackendSubscribeResponse,
};
use mainstay_rpc::{Call, Lane, Response, Status, Upstream};
use serde_json::value::RawValue;

use super::NoAnswer;
use super::hooks::{Question, Told};

const RPC: &str = "mainstay.realtime.v1.RealtimeBackend/Rpc";
const CONNECT: &str = "mainstay.realtime.v1.RealtimeBackend/OnConnect";
const REFRESH: &str = "mainstay.realtime.v1.RealtimeBackend/OnRefresh";
const SUBSCRIBE: &str = "mainstay.realtime.v1.RealtimeBackend/OnSubscribe";
const SUB_REFRESH: &str = "mainstay.realtime.v1.RealtimeBackend/OnSubRefresh";
const PUBLISH: &str = "mainstay.realtime.v1.RealtimeBackend/OnPublish";

/// One way to ask, with its limits.
#[derive(Clone, Copy)]
struct Asking<'a> {
    upstream: &'a Upstream,
    max_answer_bytes: usize,
    within: Duration,
}

pub(super) async fn rpc(
    upstream: &Upstream,
    max_answer_bytes: usize,
    request: BackendRpcRequest,
    within: Duration,
) -> Result<BackendRpcResponse, NoAnswer> {
    let asking = Asking { upstream, max_answer_bytes, within };
    asking.send(RPC, request, async |mut backend, request| backend.rpc(request).await).await
}

pub(super) async fn ask(
    upstream: &Upstream,
    max_answer_bytes: usize,
    question: Question,
    within: Duration,
) -> Result<Told, NoAnswer> {
    let asking = Asking { upstream, max_answer_bytes, within };
    match question {
        Question::Connect(request) => {
            let sent =
                asking.send(CONNECT, request, async |mut backend, request| backend.on_connect(request).await);
            sent.await.and_then(Told::try_from)
        }
        Question::Refresh(request) => {
            let sent =
                asking.send(REFRESH, request, async |mut backend, request| backend.on_refresh(request).await);
            sent.await.map(Told::from)
        }
        Question::Subscribe(request) => {
            let sent = asking
                .send(SUBSCRIBE, request, async |mut backend, request| backend.on_subscribe(request).await);
            sent.await.and_then(Told::try_from)
        }
        Question::SubRefresh(request) => {
            let sent = asking.send(SUB_REFRESH, request, async |mut backend, request| {
                backend.on_sub_refresh(request).await
            });
            sent.await.map(Told::from)
        }
        Question::Publish(request) => {
            let sent =
                asking.send(PUBLISH, request, async |mut backend, request| backend.on_publish(request).await);
            sent.await.and_then(Told::try_from)
        }
    }
}

impl Asking<'_> {
    /// Sends a question, again only when it provably was not looked at.
    async fn send<Q: Clone, A, F>(
        self,
        method: &'static str,
        request: Q,
        send: impl Fn(RealtimeBackendClient<Lane>, Q) -> F,
    ) -> Result<A, NoAnswer>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let call = Call::write(method).within(self.within);
        let answer = self.upstream.call(call, |lane| {
            let backend = RealtimeBackendClient::new(lane).max_decoding_message_size(self.max_answer_bytes);
            send(backend, request.clone())
        });
        answer.await.map_err(NoAnswer::Grpc)
    }
}

impl TryFrom<BackendConnectResponse> for Told {
    type Error = NoAnswer;

    fn try_from(answer: BackendConnectResponse) -> Result<Self, NoAnswer> {
        Ok(Self {
            user: answer.user,
            info: Self::document(&answer.info)?,
            meta: Self::document(&answer.meta)?,
            data: Self::document(&answer.data)?,
            channels: answer.channels,
            filters: filters(answer.filters)?,
            expire_at: answer.expire_at,
            error: answer.error,
            ..Self::default()
        })
    }
}

/// Reads filters of channels; an empty one, as anywhere, is none.
fn filters(answer: HashMap<String, Bytes>) -> Result<BTreeMap<String, Box<RawValue>>, NoAnswer> {
    let read = |(channel, filter): (String, Bytes)| {
        Told::document(&filter).transpose().map(|filter| filter.map(|filter| (channel, filter)))
    };
    answer.into_iter().filter_map(read).collect()
}

impl TryFrom<BackendSubscribeResponse> for Told {
    type Error = NoAnswer;

    fn try_from(answer: BackendSubscribeResponse) -> Result<Self, NoAnswer> {
        Ok(Self {
            info: Self::document(&answer.info)?,
            data: Self::document(&answer.data)?,
            expire_at: answer.expire_at,
            overrides: Overrides::of(
                answer.force_recovery,
                answer.force_positioning,
                answer.force_push_join_leave,
            ),
            filter: Self::document(&answer.filter)?,
            error: answer.error,
            ..Self::default()
        })
    }
}

impl TryFrom<BackendPublishResponse> for Told {
    type Error = NoAnswer;

    fn try_from(answer: BackendPublishResponse) -> Result<Self, NoAnswer> {
        Ok(Self { data: Self::document(&answer.data)?, error: answer.error, ..Self::default() })
    }
}

impl From<BackendRefreshResponse> for Told {
    fn from(answer: BackendRefreshResponse) -> Self {
        Self { expire_at: answer.expire_at, expired: answer.expired, ..Self::default() }
    }
}

impl From<BackendSubRefreshResponse> for Told {
    fn from(answer: BackendSubRefreshResponse) -> Self {
        Self { expire_at: answer.expire_at, expired: answer.expired, ..Self::default() }
    }
}
