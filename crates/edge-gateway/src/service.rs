//! Puts the edge together.

use std::sync::Arc;

use anyhow::Context as _;
use mainstay_auth::api_key::StoredKeys;
use mainstay_auth::jwt::RotatingKeys;
use mainstay_rpc::{Routes, ServeOptions, server_tls};
use mainstay_runtime::{ComponentKind, Context};

use crate::cache_stream::CacheStreams;
use crate::config::EdgeConfig;
use crate::figures::Figures;
use crate::front::CacheFront;
use crate::middleware::deprecation::Deprecations;
use crate::routes::docs::Pages;
use crate::routes::live;
use crate::state::App;
use crate::upstream::{self, Upstreams};
use crate::{audit, keyring, middleware, router};

/// Starts the edge: everything it needs is built here, in this order.
///
/// # Errors
/// Fails when a port is taken or a key of the configuration cannot be used.
pub async fn start(cx: Context, config: EdgeConfig) -> anyhow::Result<()> {
    // 1. The public port, before anything else: a taken port must be known at once.
    let listener = cx.bind("http", "http.listen", config.http.listen).await?;

    // 2. Who may come in.
    let rotating = RotatingKeys::default();
    let stored = StoredKeys::default();
    let authenticator = config.auth.authenticator(&rotating, stored.clone())?;
    if config.auth.jwks.is_configured() {
        mainstay_jwks::keep(&cx, &config.auth.jwks, rotating).context("reading auth.jwks")?;
    }

    // 3. The services behind; nothing is connected yet.
    let upstreams = Upstreams::try_new(&config.upstreams)?;
    let peers = upstream::peers(&config.upstreams)?;

    // 4. Figures and the state that handlers share.
    let figures = cx.metrics(Figures::register);
    let cache_streams =
        CacheStreams::try_new(&config.upstreams.cache, &config.cache_stream, figures.clone())?;
    let mut map = router::map();
    let mut document = map.take_document();
    Deprecations::new(&config.http.deprecated).mark(&mut document);
    let pages = Pages::new(&document);
    let upstreams = (upstreams, cache_streams);
    let app =
        Arc::new(App::new(cx.clone(), &config, (authenticator, stored), upstreams, peers, figures, pages));

    // 5. A look at every peer each second, for readiness and for the age in merged answers; the streams to the cache.
    for peer in &app.peers {
        let component = cx.component(peer.component_name(), ComponentKind::Upstream, false);
        cx.background(
            peer.component_name(),
            upstream::probe_schedule(),
            upstream::probe(peer.clone(), component),
        );
    }

    app.cache_streams.keep(&cx);

    // 6. What watchers are told, once for all of them.
    app.live_is_told_by(live::tell_watchers(&cx, &app));

    // 7. API keys made over REST, and the record of changes: both are kept by the monitor.
    if !config.upstreams.monitor.endpoints.is_empty() {
        keyring::keep(&cx, &app, config.auth.stored_keys.refresh_every);
        audit::run(&cx, &app);
    }

    // 8. The public door, and the internal one.
    let options = ServeOptions {
        tls: server_tls(&config.http.tls).context("reading http.tls")?,
        max_connections: config.http.max_connections,
        header_within: config.http.header_within,
        front: Some(Arc::new(CacheFront::new(Arc::clone(&app), &map.paths(), &config.http))),
        ..ServeOptions::new("http")
    };
    cx.serve_http(listener, map.router(app, &config.http), options);
    middleware::announce(&cx, &config);
    cx.serve(Routes::default()).await
}
