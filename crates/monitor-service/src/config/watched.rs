//! What the sections of all that is watched beside the services have in common.

use std::num::NonZeroUsize;
use std::time::Duration;

use http::Uri;
use mainstay_rpc::{ClientTls, EndpointList, Secret};
use mainstay_runtime::Problems;

/// Adds what is wrong with a list of urls of these schemes. `bare` ones are scheme, host and port and nothing else.
pub(super) fn check_urls(
    key: &str,
    urls: &EndpointList,
    schemes: &[&str],
    bare: bool,
    problems: &mut Problems,
) {
    problems.ensure(!urls.is_empty(), key, "must name at least one");
    for (index, url) in urls.iter().enumerate() {
        if let Some(problem) = problem(url, schemes, bare) {
            problems.add(format!("{key}.{index}"), problem);
        }
        let is_again = urls.iter().take(index).any(|earlier| earlier == url);
        problems.ensure(!is_again, key, "names an address twice");
    }
}

fn problem(url: &str, schemes: &[&str], bare: bool) -> Option<String> {
    let legal = url.parse::<Uri>().ok().filter(|uri| {
        uri.scheme_str().is_some_and(|scheme| schemes.contains(&scheme))
            && uri.host().is_some_and(|host| !host.is_empty())
    });
    let Some(uri) = legal else { return Some(format!("must be a url that begins with {}", list(schemes))) };
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Some("must not hold a user or password: addresses are shown to everybody".to_owned());
    }
    let is_bare = uri.port_u16().is_some() && matches!(uri.path(), "" | "/") && uri.query().is_none();
    (bare && !is_bare).then(|| "must be a scheme, a host and a port".to_owned())
}

fn list(schemes: &[&str]) -> String {
    let named: Vec<String> = schemes.iter().map(|scheme| format!("{scheme}://")).collect();
    named.join(" or ")
}

/// Adds what is wrong with how often something is asked.
pub(super) fn check_pace(
    section: &str,
    every: Duration,
    within: Duration,
    failures: u32,
    problems: &mut Problems,
) {
    let (ms, s) = (Duration::from_millis, Duration::from_secs);
    problems.duration(&format!("{section}.every"), every, ms(100)..=s(300));
    problems.duration(&format!("{section}.within"), within, ms(10)..=s(60));
    problems.ensure(within <= every, &format!("{section}.within"), "must not be longer than `every`");
    problems.range(&format!("{section}.failures"), failures, 1..=100);
}

/// Adds what is wrong with how somebody logs in over HTTP.
pub(super) fn check_login(
    section: &str,
    token: &Secret,
    user: &str,
    password: &Secret,
    problems: &mut Problems,
) {
    let both = !token.is_empty() && !user.is_empty();
    problems.ensure(!both, &format!("{section}.token"), "must be empty where `user` is set");
    let legal = token.expose().bytes().all(|byte| byte.is_ascii_graphic());
    problems.ensure(legal, &format!("{section}.token"), "must be visible ASCII characters, without spaces");
    problems.ensure(!user.contains(':'), &format!("{section}.user"), "must not contain a colon");
    let alone = user.is_empty() && !password.is_empty();
    problems.ensure(!alone, &format!("{section}.password"), "is of no use without `user`");
}

pub(super) fn check_tls(section: &str, tls: &ClientTls, problems: &mut Problems) {
    let key = format!("{section}.tls");
    problems.ensure(tls.cert.is_some() == tls.key.is_some(), &key, "cert and key are needed together");
    problems.ensure(tls.cert.is_none() || tls.ca.is_some(), &key, "cert and key are of no use without ca");
}

/// As many pulls of something are remembered as lie within `keep`.
pub(super) fn ticks(keep: Duration, every: Duration) -> Option<NonZeroUsize> {
    let ticks = keep.as_nanos().div_ceil(every.as_nanos().max(1)).min(super::TICKS_MAX);
    NonZeroUsize::new(usize::try_from(ticks).unwrap_or(usize::MAX))
}

/// One pull may be late and one may be missed before its figures are old.
pub(super) fn patience(every: Duration, within: Duration) -> Duration {
    every * 2 + within
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_an_address_is_told_with_its_place() {
        let urls = ["http://a/metrics", "ftp://a", "http://u:p@a", "nonsense", "http://a/metrics"];
        let mut problems = Problems::default();
        check_urls("s.urls", &urls.into_iter().collect(), &["http", "https"], false, &mut problems);
        let lines = problems.lines();
        let mut keys: Vec<_> = lines.iter().filter_map(|line| line.split(':').next()).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["s.urls", "s.urls.1", "s.urls.2", "s.urls.3"], "{lines:?}");
        assert_eq!(
            problem("tcp://a", &["tcp"], true).as_deref(),
            Some("must be a scheme, a host and a port")
        );
        assert_eq!(problem("tcp://[::1]:5", &["tcp"], true), None);
    }
}
