use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::config::Address;

/// One line of CLUSTER NODES: what a node knows of another, or of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    id: String,
    /// None while nobody knows it.
    address: Option<Address>,
    is_myself: bool,
    is_primary: bool,
    is_failing: bool,
    /// Id of its primary.
    replica_of: Option<String>,
    /// Of the last vote or decision about its slots: the higher one is right.
    epoch: u64,
    slots: Vec<RangeInclusive<u16>>,
    /// Slots whose keys it is giving to other nodes; only known of itself.
    giving: Vec<(u16, String)>,
}

/// The nodes of a cluster, as far as is known.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Map {
    nodes: BTreeMap<String, Node>,
}

/// Reads the answer to CLUSTER NODES of the node at `host`, which may not know its own address. Lines that say something else are
/// left out.
pub(crate) fn parse(text: &str, host: &str) -> Vec<Node> {
    text.lines().filter_map(|line| parse_line(line, host)).collect()
}

/// `id ip:port@bus[,name] flags primary ping pong epoch link slots...`
fn parse_line(line: &str, host: &str) -> Option<Node> {
    let mut words = line.split(' ');
    let (id, place, flags, primary) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let (_ping, _pong, epoch, _link) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let has = |flag: &str| flags.split(',').any(|word| word == flag);
    let is_myself = has("myself");
    let place = place.split('@').next()?;
    let place = if is_myself && place.starts_with(':') { format!("{host}{place}") } else { place.to_owned() };
    let (mut slots, mut giving) = (Vec::new(), Vec::new());
    for word in words {
        if let Some(moving) = word.strip_prefix('[') {
            if let Some((slot, to)) = moving.trim_end_matches(']').split_once("->-") {
                giving.push((slot.parse().ok()?, to.to_owned()));
            }
        } else {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            slots.push(first.parse().ok()?..=last.parse().ok()?);
        }
    }
    Some(Node {
        id: id.to_owned(),
        address: place.parse().ok().filter(|_| !has("noaddr")),
        is_myself,
        is_primary: has("master"),
        is_failing: has("fail"),
        replica_of: (primary != "-").then(|| primary.to_owned()),
        epoch: epoch.parse().ok()?,
        slots,
        giving,
    })
}

impl Map {
    /// Puts together what several nodes know. Of two that differ about a node, the one that knows of the later decision is right,
    /// and of equals the node itself.
    pub(crate) fn of(views: Vec<Vec<Node>>) -> Self {
        let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
        for node in views.into_iter().flatten() {
            let better = |known: &Node| (node.epoch, node.is_myself) > (known.epoch, known.is_myself);
            if nodes.get(&node.id).is_none_or(better) {
                nodes.insert(node.id.clone(), node);
            }
        }
        Self { nodes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Returns the primary that has a slot.
    pub(crate) fn owner(&self, slot: u16) -> Option<&Address> {
        let owners = self.primaries().filter(|node| node.slots.iter().any(|slots| slots.contains(&slot)));
        owners.max_by_key(|node| node.epoch)?.address.as_ref()
    }

    /// Returns the nodes that are being given these slots.
    pub(crate) fn heirs(&self, slots: &[u16]) -> impl Iterator<Item = &Address> {
        let giving = self.nodes.values().flat_map(|node| &node.giving);
        let to = giving.filter(|(slot, _)| slots.contains(slot)).filter_map(|(_, to)| self.nodes.get(to));
        to.filter_map(|node| node.address.as_ref())
    }

    /// Returns every node that has an address, primaries first.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        let mut nodes: Vec<&Node> = self.nodes.values().collect();
        nodes.sort_by_key(|node| (node.is_failing, !node.is_primary));
        nodes.into_iter().filter_map(|node| node.address.clone()).collect()
    }

    /// Returns address, slots and replicas of each primary that has slots.
    pub(crate) fn shards(&self) -> impl Iterator<Item = (&Address, u32, u32)> {
        self.primaries().filter_map(|node| {
            let n_slots = node.slots.iter().map(|slots| slots.len() as u32).sum();
            let replicas =
                self.nodes.values().filter(|replica| replica.replica_of.as_ref() == Some(&node.id));
            let n_replicas = replicas.filter(|replica| !replica.is_failing).count();
            (n_slots > 0).then_some((node.address.as_ref()?, n_slots, n_replicas as u32))
        })
    }

    pub(crate) fn n_nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Returns the nodes that others could not reach for a while.
    pub(crate) fn failing(&self) -> Vec<String> {
        let failing = self.nodes.values().filter(|node| node.is_failing);
        failing
            .map(|node| node.address.as_ref().map_or_else(|| node.id.clone(), ToString::to_string))
            .collect()
    }

    fn primaries(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.is_primary)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BEFORE: &str = "\
a :7000@17000 myself,master - 0 0 1 connected 0-99 200 [50->-b] [60-<-b]
b 10.0.0.2:7000@17000,name.of.b master - 0 1 2 connected 100-199
c 10.0.0.3:7000@17000 slave a 0 1 1 connected
d 10.0.0.4:0@0 master,noaddr - 0 1 0 disconnected
this is no node
";
    const AFTER: &str = "\
a 10.0.0.1:7000@17000 master,fail - 0 0 1 disconnected
b 10.0.0.2:7000@17000 myself,master - 0 1 2 connected 100-199
c 10.0.0.3:7000@17000 master - 0 1 3 connected 0-99 200
";

    fn owners(views: &[&str]) -> Vec<Option<String>> {
        let map = Map::of(views.iter().map(|text| parse(text, "10.0.0.1")).collect());
        [0, 99, 100, 200, 201].iter().map(|slot| map.owner(*slot).map(ToString::to_string)).collect()
    }

    #[test]
    fn the_primary_with_the_slot_is_its_owner() {
        let (a, b) = (Some("10.0.0.1:7000".to_owned()), Some("10.0.0.2:7000".to_owned()));
        assert_eq!(owners(&[BEFORE]), [a.clone(), a.clone(), b, a, None]);
    }

    #[test]
    fn the_later_decision_is_right_whoever_answers_first() {
        let c = Some("10.0.0.3:7000".to_owned());
        for views in [&[BEFORE, AFTER][..], &[AFTER, BEFORE], &[AFTER]] {
            assert_eq!(owners(views)[0], c);
        }
    }

    #[test]
    fn what_a_node_gives_away_is_known_of_itself() {
        let map = Map::of(vec![parse(AFTER, "x"), parse(BEFORE, "10.0.0.1")]);
        let heirs: Vec<_> = map.heirs(&[50]).map(ToString::to_string).collect();
        assert_eq!(heirs, ["10.0.0.2:7000"]);
        assert_eq!(map.heirs(&[60]).count(), 0);
    }

    #[test]
    fn shards_are_primaries_with_slots() {
        let map = Map::of(vec![parse(BEFORE, "10.0.0.1")]);
        let shards: Vec<_> = map.shards().map(|(address, n, r)| (address.to_string(), n, r)).collect();
        assert_eq!(shards, [("10.0.0.1:7000".to_owned(), 101, 1), ("10.0.0.2:7000".to_owned(), 100, 0)]);
        assert_eq!(map.n_nodes(), 4);
        assert!(map.failing().is_empty());
        assert_eq!(Map::of(vec![parse(AFTER, "x")]).failing(), ["10.0.0.1:7000"]);
        assert_eq!(map.addresses().len(), 3);
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_panic(text in ".{0,80}", word in "[0-9a-z:@,\\[\\]<>-]{0,20}") {
            parse(&text, "h");
            parse(&format!("a 1.1.1.1:1@1 master - 0 0 1 connected {word}"), "h");
        }
    }
}
