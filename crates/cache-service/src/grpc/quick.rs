//! Reads that memory alone answers, past the router and the generated code. All else goes the usual way.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mainstay_rpc::{AtOnce, QuickMethod};

use super::wire::{Get, Gets, put_get_response, put_outcome};
use crate::engine::Engine;

/// `outcomes` of a `BatchResponse`.
const OUTCOMES: u8 = 1;

/// Returns the methods; the answer to a batch has at most `most_batch_bytes`.
pub(crate) fn methods(engine: &Arc<Engine>, most_batch_bytes: usize) -> Vec<QuickMethod> {
    let (get, batch) = (
        QuickGet(Arc::clone(engine)),
        QuickBatch { engine: Arc::clone(engine), most_bytes: most_batch_bytes },
    );
    vec![
        QuickMethod::new("mainstay.cache.v1.CacheService/Get", get),
        QuickMethod::new("mainstay.cache.v1.CacheService/Batch", batch),
    ]
}

struct QuickGet(Arc<Engine>);

impl AtOnce for QuickGet {
    fn answer(&self, request: &Bytes, answer: &mut BytesMut) -> bool {
        let Some(Get { namespace, key }) = Get::read(request) else { return false };
        let Some(mut hits) = self.0.hits(namespace) else { return false };
        hits.look(key, |seen| put_get_response(seen, answer)).is_some()
    }
}

struct QuickBatch {
    engine: Arc<Engine>,
    most_bytes: usize,
}

impl AtOnce for QuickBatch {
    fn answer(&self, request: &Bytes, answer: &mut BytesMut) -> bool {
        let Some(gets) = Gets::read(request).filter(|gets| gets.len() > 0) else { return false };
        let Some(mut hits) = self.engine.hits(gets.namespace()) else { return false };
        let mut n_taken = 0;
        while let Some(key) = gets.key(n_taken as usize) {
            let first = n_taken;
            n_taken += hits.look_at_once(gets.keys_from(first as usize), |index, seen| {
                put_outcome(OUTCOMES, first + index, seen, answer);
                answer.len() <= self.most_bytes
            });
            if first == 0 && n_taken > 0 {
                // The others are about as large; growing step by step would copy what is written.
                let left = answer.len() / n_taken as usize * (gets.len() - n_taken as usize);
                answer.reserve(left.min(self.most_bytes));
            }
            if n_taken == first {
                n_taken += 1;
                if hits.look(key, |seen| put_outcome(OUTCOMES, first, seen, answer)).is_none() {
                    hits.forget();
                    return false;
                }
            }
            if answer.len() > self.most_bytes {
                hits.forget();
                return false;
            }
        }
        true
    }
}
