//! The dashboard in a real browser, on a real stack. Pictures for people to look at go to `target/dashboard/`.

use std::path::PathBuf;

use mainstay_auth::Role;
use mainstay_auth::jwt::Claims;
use mainstay_tests::{Browser, Devstack, House, Service, unix_s};
use serde_json::Value;

/// Puts a picture where people find it.
async fn picture(browser: &mut Browser, name: &str) {
    let exe = std::env::current_exe().expect("a running program has a path");
    let folder: PathBuf =
        exe.ancestors().nth(3).expect("tests run from target/<profile>/deps").join("dashboard");
    std::fs::create_dir_all(&folder).expect("target can be written");
    browser.screenshot(&folder.join(format!("{name}.png"))).await;
}

/// Says that the alert about the stopped replica is shown in this state.
fn alert_is(state: &str) -> String {
    format!(
        "[...document.querySelectorAll('article.alert')].some((one) => one.dataset.state === '{state}' && \
         one.innerText.includes('replica1'))"
    )
}

const ALERT_BUTTON: &str =
    "article.alert[data-about=\"postgres.replica1\"][data-state=firing] button:not(.quiet)";

async fn sign_in(browser: &mut Browser, house: &House) {
    browser.open(&format!("http://{}/dashboard", house.edge())).await;
    browser.until("the way in", "document.querySelector('#key') !== null").await;
    picture(browser, "1-before-signing-in").await;
    browser.click("#key").await;
    browser.type_text("not-a-key-of-this-house").await;
    browser.press("Enter").await;
    browser
        .until("the refusal", "document.querySelector('.signin .error').innerText.includes('not known')")
        .await;
    browser.evaluate("document.querySelector('#key').value = ''").await;
    browser.click("#key").await;
    browser.type_text(&house.stack().credentials().api_keys.operator).await;
    browser.press("Enter").await;
    browser.until("live figures", "document.querySelector('#live').innerText === 'live'").await;
    // The browser keeps what a tab stores in another process than that of the page, and a moment later.
    browser.evaluate("window.firstAt = M.state.figuresAt").await;
    browser.until("the next figures", "M.state.figuresAt > window.firstAt").await;
    // Asked for again, the page comes from what the browser has kept; the key is that of the tab.
    browser.evaluate("window.isFirst = true").await;
    browser.open(&format!("http://{}/dashboard", house.edge())).await;
    let again = "!window.isFirst && document.querySelector('#live')?.innerText === 'live'";
    browser.until("live figures again", again).await;
}

#[tokio::test]
async fn people_see_figures_move_and_an_alert_come_be_taken_and_go() {
    let services = Service::ALL;
    let house = House::start(Devstack::builder().redis(true).postgres(true).services(services)).await;
    house.healthy().await;
    let mut browser = Browser::start().await;
    browser.screen(1280, 900, "light").await;
    sign_in(&mut browser, &house).await;

    // A figure moves, and is the one that the cache counts.
    let reads = "M.state.figures && M.state.figures.cache.cacheHitStats.gets";
    let before = browser.until("the reads so far", &format!("({reads}) + 1")).await;
    for _ in 0..20 {
        house.rest(Role::Viewer).get("/cache/browser/nothing").await;
    }
    let enough = before.as_u64().unwrap() + 19;
    browser.until("the reads to be seen", &format!("({reads}) >= {enough}")).await;
    browser.press("2").await;
    let shown =
        format!("document.body.innerText.replaceAll(',', '').match(/of (\\d+) reads/)?.[1] >= {enough}");
    browser.until("the reads to be shown", &shown).await;
    browser.until("a chart", "document.querySelector('.chart canvas') !== null").await;
    picture(&mut browser, "2-cache-light").await;

    // A replica stops: the first page says what is wrong, and an alert comes.
    let replica = &house.stack().postgres().unwrap().first_replicas()[0];
    replica.kill().await.unwrap();
    browser.press("1").await;
    browser
        .until("the verdict", "document.querySelector('.verdict').className.match(/degraded|unhealthy/) && document.querySelector('.verdict').innerText.includes('replica1')")
        .await;
    browser.screen(1280, 900, "dark").await;
    picture(&mut browser, "3-replica-stopped-dark").await;
    browser.press("5").await;
    browser.until("the alert", &alert_is("firing")).await;
    picture(&mut browser, "4-alert").await;

    // It is taken, with a comment.
    browser.click(ALERT_BUTTON).await;
    browser.click("#dialog input[name=comment]").await;
    browser.type_text("the replica is being brought back").await;
    picture(&mut browser, "5-acknowledging").await;
    browser.press("Enter").await;
    browser
        .until(
            "the acknowledgement",
            "document.body.innerText.includes('acknowledged by operator: the replica is being brought back')",
        )
        .await;

    // It goes.
    replica.start().await.unwrap();
    browser
        .until(
            "the alert to be open no more",
            &format!("!{} && !{}", alert_is("firing"), alert_is("pending")),
        )
        .await;
    browser.click(".seg button:nth-child(2)").await;
    browser.until("the alert among those that ended", &alert_is("resolved")).await;

    // Everything fits on a phone, and no script failed anywhere.
    browser.screen(390, 844, "light").await;
    for (digit, view) in [
        ("1", "overview"),
        ("2", "cache"),
        ("3", "websockets"),
        ("4", "database"),
        ("5", "alerts"),
        ("6", "performance"),
        ("7", "topology"),
    ] {
        browser.press(digit).await;
        browser
            .until(
                view,
                &format!("location.hash === '#{view}' && document.querySelector('main .card') !== null"),
            )
            .await;
        let too_wide = browser
            .evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            .await;
        assert_eq!(too_wide, 0, "{view} does not fit on a phone");
        let unnamed = "[...document.querySelectorAll('button, a, input, select, [role=img]')].filter((one) => \
                       !(one.innerText || one.getAttribute('aria-label') || one.labels?.length || one.title)).length";
        assert_eq!(browser.evaluate(unnamed).await, 0, "{view} has controls without a name");
        picture(&mut browser, &format!("6-phone-{view}")).await;
    }
    let complaints: Vec<_> = browser.complaints().iter().filter(|text| !is_expected(text)).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// The refused key, and what the stopped replica keeps from answering.
fn is_expected(complaint: &str) -> bool {
    ["status of 401", "status of 503", "status of 504"].iter().any(|text| complaint.contains(text))
}

#[tokio::test]
async fn what_is_shown_is_marked_as_old_while_the_edge_is_away_and_a_token_outlives_that() {
    let services = [Service::CacheService, Service::MonitorService, Service::EdgeGateway];
    let house = House::start(Devstack::builder().services(services)).await;
    let (sub, role, exp) = ("night-watch".to_owned(), Some(Role::Operator), Some(unix_s() + 3_600));
    let token = house.token(&Claims { sub, role, exp, ..Claims::default() });
    let mut browser = Browser::start().await;
    browser.screen(1280, 900, "dark").await;
    browser.open(&format!("http://{}/dashboard", house.edge())).await;
    browser.until("the way in", "document.querySelector('#key') !== null").await;
    browser.click("#key").await;
    browser.type_text(&token).await;
    browser.press("Enter").await;
    let is_live = "document.querySelector('#live').innerText === 'live'";
    browser.until("live figures", is_live).await;
    browser.press("5").await;
    // The page before also has a live region: only the choice of alerts is on this one alone.
    let alerts = "document.querySelector('main [aria-label=\"Which alerts\"]') !== null && \
                  !document.querySelector('main .wait, main .stale, main .fault')";
    browser.until("the alerts", alerts).await;

    let edge = house.stack().service(Service::EdgeGateway).unwrap();
    edge.kill().await.unwrap();
    let is_away = "document.querySelector('#live').innerText === 'the edge does not answer' && \
                   document.body.classList.contains('away') && document.querySelector('main .stale') !== null";
    browser.until("the page to say that it is old", is_away).await;
    picture(&mut browser, "7-edge-away-dark").await;
    edge.start().await.unwrap();
    browser.until("live figures again", &format!("{is_live} && {alerts}")).await;
}

#[tokio::test]
async fn page_is_light_and_painted_at_once() {
    let house = House::start(Devstack::builder().services([Service::EdgeGateway])).await;
    let mut browser = Browser::start().await;
    browser.screen(1280, 900, "light").await;
    browser.open(&format!("http://{}/dashboard", house.edge())).await;
    browser.until("the page", "document.querySelector('.verdict h1') !== null").await;
    let painted = browser
        .until("the first paint", "performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
        .await;
    let weight = "performance.getEntriesByType('resource').filter((one) => one.name.includes('/assets/')).concat(\
                  performance.getEntriesByType('navigation')).reduce((sum, one) => sum + one.transferSize, 0)";
    let weight = browser.evaluate(weight).await;
    // Wide margins for a busy machine; the figures themselves are printed.
    let (painted, weight): (f64, u64) = (number(&painted), number(&weight) as u64);
    eprintln!("first contentful paint after {painted:.0} ms, {weight} bytes over the wire");
    assert!(painted < 5_000.0, "painted after {painted} ms");
    assert!((10_000..300 * 1_024).contains(&weight), "{weight} bytes");
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}
