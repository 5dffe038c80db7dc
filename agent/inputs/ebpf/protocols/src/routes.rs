//! How many operations one service may have: beyond that, the part of their names that varies most becomes `*`.
//!
//! In: exchanges of one service, named by [`crate::route`]. Out: the same, with at most [`ROUTES_MAX`] names. Routes are kept as
//! a tree of segments; when there are too many, the place with the most different segments keeps those that are seen
//! often, and all others there are one from then on. Invariant: at most [`ROUTES_MAX`] routes are kept.

use crate::Exchange;
use crate::route::segments;
use ollystack_record::Attribute;
use ollystack_record::attribute::{string, string_attribute};
use ollystack_schema::names::semconv;
use std::borrow::Cow;

/// Routes of a service. The trees of the largest APIs have some hundred.
pub const ROUTES_MAX: usize = 256;
/// Segments that stay by their names where there are too many: those with one in so many of the requests.
const KEPT_SHARE: u32 = 32;
/// Any segment.
const ANY: &str = "*";

/// The routes of one service.
#[derive(Debug, Default)]
pub struct Routes {
    root: Node,
    count: usize,
}

/// A place in the tree.
#[derive(Debug, Default)]
struct Node {
    /// Sorted by name.
    children: Vec<(Box<str>, Node)>,
    /// How often it was come by.
    hits: u32,
    /// A route ends here.
    is_route: bool,
    /// Further segments are [`ANY`].
    is_full: bool,
}

impl Routes {
    /// Give an exchange's name, and the attributes that tell the same, the form that keeps the service's names few.
    pub fn limit(&mut self, exchange: &mut Exchange) {
        if let Some(route) = string_attribute(&exchange.attributes, semconv::HTTP_ROUTE) {
            let Cow::Owned(limited) = self.settle(route) else { return };
            let method = exchange.name.split_once(' ').map_or("", |(method, _)| method);
            exchange.name = format!("{method} {limited}");
            set(&mut exchange.attributes, semconv::HTTP_ROUTE, limited);
        } else if string_attribute(&exchange.attributes, semconv::RPC_METHOD).is_some() {
            let path = format!("/{}", exchange.name);
            let Cow::Owned(mut limited) = self.settle(&path) else { return };
            exchange.attributes.retain(|it| it.key != semconv::RPC_SERVICE && it.key != semconv::RPC_METHOD);
            exchange.name = limited.split_off(1);
        }
    }

    /// The route that a route is one of.
    pub fn settle<'a>(&mut self, route: &'a str) -> Cow<'a, str> {
        // Written anew from the first segment on that is another than its own.
        let mut limited: Option<String> = None;
        let start = route.find('/').unwrap_or(route.len());
        let (mut node, mut read) = (&mut self.root, start);
        for segment in segments(route).skip(1) {
            node.hits = node.hits.saturating_add(1);
            let place = match node.find(segment) {
                Err(_) if node.is_full => {
                    limited.get_or_insert_with(|| route[start..read].to_owned());
                    node.find(ANY)
                }
                place => place,
            };
            read += "/".len() + segment.len();
            let place = place.unwrap_or_else(|place| {
                let name = if node.is_full { ANY } else { segment };
                node.children.insert(place, (name.into(), Node::default()));
                place
            });
            let (name, child) = &mut node.children[place];
            if let Some(limited) = &mut limited {
                limited.extend(["/", &**name]);
            }
            node = child;
        }
        node.hits = node.hits.saturating_add(1);
        if !std::mem::replace(&mut node.is_route, true) {
            self.count += 1;
            while self.count > ROUTES_MAX && self.root.thin() {
                self.count = self.root.routes();
            }
        }
        limited.map_or(Cow::Borrowed(route), Cow::Owned)
    }
}

impl Node {
    fn find(&self, segment: &str) -> Result<usize, usize> {
        self.children.binary_search_by(|(name, _)| (**name).cmp(segment))
    }

    fn routes(&self) -> usize {
        usize::from(self.is_route) + self.children.iter().map(|(_, child)| child.routes()).sum::<usize>()
    }

    /// The most segments that differ in any one place.
    fn widest(&self) -> usize {
        self.children.iter().map(|(_, child)| child.widest()).max().unwrap_or(0).max(self.children.len())
    }

    /// Make one of the segments that are seen seldom, in the widest place. Whether there was one.
    fn thin(&mut self) -> bool {
        let widest = self.widest();
        widest > 1 && self.thin_place_of(widest)
    }

    fn thin_place_of(&mut self, widest: usize) -> bool {
        if self.children.len() < widest {
            return self.children.iter_mut().any(|(_, child)| child.thin_place_of(widest));
        }
        // At least half of them go.
        let mut hits: Vec<u32> = self.children.iter().map(|(_, child)| child.hits).collect();
        hits.sort_unstable();
        let least = hits[hits.len() / 2].max(self.hits / KEPT_SHARE);
        let mut any = Node::default();
        self.children.retain_mut(|(name, child)| {
            let is_kept = child.hits > least && **name != *ANY;
            if !is_kept {
                any.join(std::mem::take(child));
            }
            is_kept
        });
        self.is_full = true;
        if let Err(place) = self.find(ANY) {
            self.children.insert(place, (ANY.into(), any));
        }
        true
    }

    fn join(&mut self, other: Node) {
        self.hits = self.hits.saturating_add(other.hits);
        self.is_route |= other.is_route;
        self.is_full |= other.is_full;
        for (name, child) in other.children {
            match self.find(&name) {
                Ok(place) => self.children[place].1.join(child),
                Err(place) => self.children.insert(place, (name, child)),
            }
        }
    }
}

fn set(attributes: &mut [Attribute], key: &'static str, value: String) {
    if let Some(attribute) = attributes.iter_mut().find(|attribute| attribute.key == key) {
        *attribute = string(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Found, Protocol as _};
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn services_with_few_routes_keep_them_all() {
        let mut routes = Routes::default();
        for number in 0..ROUTES_MAX {
            let route = format!("/api/things-{}/part-{}", number / 16, number % 16);
            assert!(matches!(routes.settle(&route), Cow::Borrowed(_)), "{route}");
        }
        assert_eq!(routes.settle("/"), "/");
    }

    #[test]
    fn the_segment_that_varies_becomes_any_and_others_stay() {
        let mut routes = Routes::default();
        for number in 0..2_000 {
            routes.settle(&format!("/users/name{number}/orders"));
            routes.settle("/health");
            routes.settle("/users/me/orders");
        }
        assert_eq!(routes.settle("/users/somebody/orders"), "/users/*/orders");
        assert_eq!(routes.settle("/users/me/orders"), "/users/me/orders", "it is seen often");
        assert_eq!(routes.settle("/health"), "/health");
        assert_eq!(routes.settle("/new"), "/new", "there is room for others again");
    }

    #[test]
    fn a_scan_of_paths_that_do_not_exist_leaves_the_real_ones_their_names() {
        let mut routes = Routes::default();
        for number in 0..3_000 {
            routes.settle(&format!("/admin{number}.php"));
            routes.settle(["/users/{id}", "/orders", "/orders/{id}/items"][number % 3]);
        }
        assert_eq!(routes.settle("/setup.php"), "/*");
        for route in ["/users/{id}", "/orders", "/orders/{id}/items"] {
            assert_eq!(routes.settle(route), route);
        }
    }

    #[test]
    fn names_and_attributes_of_exchanges_say_the_same() {
        let mut routes = Routes::default();
        for number in 0..=ROUTES_MAX {
            routes.settle(&format!("/x{number}"));
            routes.settle(&format!("/shop.Orders/Get{number}"));
        }
        let (mut http, mut found) = (crate::HttpOne::default(), Found::default());
        for (from, bytes) in [
            (crate::Side::Client, &b"GET /another HTTP/1.1\r\n\r\n"[..]),
            (crate::Side::Server, b"HTTP/1.1 200 OK\r\n\r\n"),
        ] {
            let at = crate::Moment::default();
            http.take(
                &crate::Chunk { from, at, position: 0, length: bytes.len() as u32, bytes, is_turn: true },
                &mut found,
            );
        }
        let exchange = &mut found.exchanges[0];
        routes.limit(exchange);
        let route = string_attribute(&exchange.attributes, semconv::HTTP_ROUTE);
        assert_eq!((exchange.name.as_str(), route), ("GET /*", Some("/*")));
        exchange.name = "shop.Orders/GetMore".to_owned();
        exchange.attributes = vec![string(semconv::RPC_SERVICE, "shop.Orders"), string(semconv::RPC_METHOD, "GetMore")];
        routes.limit(exchange);
        assert_eq!((exchange.name.as_str(), exchange.attributes.len()), ("shop.Orders/*", 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4))]

        /// Whatever paths come, and in whatever order, all names that are ever given are few.
        #[test]
        fn names_stay_few(paths in prop::collection::vec("(/[a-d]{1,4}){1,6}", 3_000)) {
            let mut routes = Routes::default();
            let mut names = HashSet::new();
            for path in &paths {
                names.insert(routes.settle(path).into_owned());
                prop_assert!(routes.count <= ROUTES_MAX);
            }
            prop_assert_eq!(routes.count, routes.root.routes());
            prop_assert!(names.len() <= 4 * ROUTES_MAX, "{}", names.len());
        }
    }
}
