//! Which options hold for a channel.

use std::collections::HashMap;
use std::sync::Arc;

use crate::channel::Channel;
use crate::config::{ChannelsConfig, NamespaceConfig};
use crate::filter::{Filter, InvalidFilter};

/// The options of every namespace.
#[derive(Debug)]
pub(crate) struct Namespaces {
    default: Namespace,
    named: HashMap<Box<str>, Namespace>,
}

#[derive(Debug)]
struct Namespace {
    options: Arc<NamespaceConfig>,
    /// What every subscriber may see.
    filter: Option<Arc<Filter>>,
}

/// Says why there is no such channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSuchChannel {
    #[error("the namespace of the channel is not configured")]
    Namespace,
    #[error("the name of the channel does not fit the pattern of its namespace")]
    Pattern,
}

impl Namespaces {
    pub(crate) fn new(config: &ChannelsConfig) -> Self {
        let named = config.namespaces.iter();
        Self {
            default: Namespace::new(&config.default),
            named: named.map(|(name, options)| (name.as_str().into(), Namespace::new(options))).collect(),
        }
    }

    /// Returns the options of a channel.
    pub(crate) fn of(&self, channel: &Channel) -> Result<&Arc<NamespaceConfig>, NoSuchChannel> {
        let (namespace, rest) = channel.parts();
        let options = match namespace {
            None => &self.default.options,
            Some(name) => &self.named.get(name).ok_or(NoSuchChannel::Namespace)?.options,
        };
        if options.pattern.is_empty() || fits(&options.pattern, rest) {
            Ok(options)
        } else {
            Err(NoSuchChannel::Pattern)
        }
    }

    /// Returns what every subscriber of a channel may see; none stands for everything.
    pub(crate) fn filter_of(&self, channel: &Channel) -> Option<Arc<Filter>> {
        let namespace = match channel.parts() {
            (None, _) => Some(&self.default),
            (Some(name), _) => self.named.get(name),
        };
        namespace.and_then(|namespace| namespace.filter.clone())
    }
}

impl Namespace {
    /// A filter that makes no sense, which the check of the configuration refuses, lets nothing through.
    fn new(options: &NamespaceConfig) -> Self {
        let filter = options.forced_filter().unwrap_or_else(|InvalidFilter| Some(Filter::nothing()));
        Self { options: Arc::new(options.clone()), filter: filter.map(Arc::new) }
    }
}

/// Tells whether a text fits a pattern in which `*` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((head, mut pattern)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    while let Some((part, rest)) = pattern.split_once('*') {
        // The earliest place leaves the most for what follows.
        let Some(at) = text.find(part) else { return false };
        (text, pattern) = (&text[at + part.len()..], rest);
    }
    text.ends_with(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_has_the_options_of_its_namespace() {
        let options = |history_size| NamespaceConfig { history_size, ..NamespaceConfig::default() };
        let orders = NamespaceConfig { pattern: "*-*".to_owned(), ..options(2) };
        let namespaces = Namespaces::new(&ChannelsConfig {
            default: options(1),
            namespaces: [("orders".to_owned(), orders), ("news".to_owned(), options(3))].into(),
            ..ChannelsConfig::default()
        });
        for (name, expected) in [
            ("a", Ok(1)),
            ("$a", Ok(1)),
            ("a#1,2", Ok(1)),
            ("news:", Ok(3)),
            ("news:a:b", Ok(3)),
            ("$news:a", Ok(3)),
            ("news:a#1", Ok(3)),
            ("orders:a-b", Ok(2)),
            ("orders:ab", Err(NoSuchChannel::Pattern)),
            ("order:a-b", Err(NoSuchChannel::Namespace)),
            (":a", Err(NoSuchChannel::Namespace)),
            ("$:a", Err(NoSuchChannel::Namespace)),
        ] {
            let channel = Channel::parse(name, 255).unwrap();
            assert_eq!(namespaces.of(&channel).map(|options| options.history_size), expected, "{name}");
        }
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("*b", "abc", false),
            ("a*c", "ac", true),
            ("ab*ba", "aba", false),
            ("*.*.x", "a.b.c.x", true),
            ("*.*.x", "a.x", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }
}
