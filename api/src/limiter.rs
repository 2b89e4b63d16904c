//! How often callers may ask: so many requests a second from an address, and so many for a user. What was not used up
//! is kept for a second, so a burst may have a second's worth. Each process counts for itself.

use std::{
    hash::Hash,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    response::{IntoResponse, Response},
};
use governor::{
    Quota, RateLimiter, clock::DefaultClock, middleware::StateInformationMiddleware,
    state::keyed::DefaultKeyedStateStore,
};

use crate::{app::Core, error::ApiError};

/// Headers of the IETF's draft (draft-ietf-httpapi-ratelimit-headers-10): what may be asked, and what is left of it.
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LEFT: HeaderName = HeaderName::from_static("ratelimit");
const FORWARDED_FOR: &str = "x-forwarded-for";
/// How often it is forgotten who has not asked for a second.
const FORGET_EVERY: Duration = Duration::from_secs(5);
/// An address of IPv6 is that of a network of this many bits: its host may take any other in there.
const NETWORK_BITS: u32 = 64;

/// How often callers may ask.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// Requests a second from an address; none: as many as they like.
    pub per_address: Option<NonZeroU32>,
    /// Requests a second for a user; none: as many as they like.
    pub per_user: Option<NonZeroU32>,
    /// Whether there is a proxy in front, which tells the address of a caller.
    pub behind_proxy: bool,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// Counts requests.
pub struct Limiter {
    addresses: Option<Counted<IpAddr>>,
    users: Option<Counted<i64>>,
    behind_proxy: bool,
}

/// What callers of one kind have used up.
struct Counted<K: Hash + Eq + Clone> {
    name: &'static str,
    a_second: NonZeroU32,
    limiter: RateLimiter<K, DefaultKeyedStateStore<K>, DefaultClock, StateInformationMiddleware>,
}

impl<K: Hash + Eq + Clone> Counted<K> {
    fn new(name: &'static str, a_second: NonZeroU32) -> Self {
        Self {
            name,
            a_second,
            limiter: RateLimiter::keyed(Quota::per_second(a_second)).with_middleware(),
        }
    }

    fn count(&self, key: &K) -> Allowance {
        let left = self.limiter.check_key(key).ok();
        Allowance {
            name: self.name,
            a_second: self.a_second,
            left: left.map(|state| state.remaining_burst_capacity()),
        }
    }

    fn forget(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

impl Limiter {
    /// A limiter that has seen nobody yet.
    pub fn new(rates: Rates) -> Self {
        Self {
            addresses: rates.per_address.map(|rate| Counted::new("address", rate)),
            users: rates.per_user.map(|rate| Counted::new("user", rate)),
            behind_proxy: rates.behind_proxy,
        }
    }

    /// Counts a request for a user.
    pub fn count_user(&self, user_id: i64) -> Option<Allowance> {
        self.users.as_ref().map(|users| users.count(&user_id))
    }

    fn count_address(&self, request: &Request) -> Option<Allowance> {
        let addresses = self.addresses.as_ref()?;
        let forwarded = self.behind_proxy.then(|| forwarded_for(request.headers()));
        let peer = || request.extensions().get::<Peer>().map(|peer| peer.0);
        let address = forwarded.flatten().or_else(peer)?;
        Some(addresses.count(&network(address)))
    }

    /// Forgets who has not asked for long, for as long as it is polled.
    pub async fn forget(&self) {
        loop {
            tokio::time::sleep(FORGET_EVERY).await;
            self.addresses.iter().for_each(Counted::forget);
            self.users.iter().for_each(Counted::forget);
        }
    }
}

/// A layer of the routes whose callers are counted by their addresses.
pub async fn guard(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let allowance = core.app.limiter.count_address(&request);
    let answer = async { Ok(next.run(request).await) };
    within(allowance, answer).await
}

/// Gives the answer if there is room for it, and says how much room there is.
pub async fn within(
    allowance: Option<Allowance>,
    answer: impl Future<Output = Result<Response, ApiError>>,
) -> Response {
    let Some(allowance) = allowance else {
        return answer.await.into_response();
    };
    let mut response = match allowance.left {
        Some(_) => answer.await.into_response(),
        None => ApiError::rate_limited(allowance.name, allowance.a_second).into_response(),
    };
    allowance.tell(response.headers_mut());
    response
}

/// What a caller may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    name: &'static str,
    a_second: NonZeroU32,
    /// How many more requests now; none if this one was too many.
    left: Option<u32>,
}

impl Allowance {
    fn tell(self, headers: &mut HeaderMap) {
        let Self { name, a_second, .. } = self;
        let left = self.left.unwrap_or(0);
        for (header, text) in [
            (POLICY, format!("\"{name}\";q={a_second};w=1")),
            (LEFT, format!("\"{name}\";r={left};t=1")),
        ] {
            let value = HeaderValue::try_from(text).expect("words and numbers are plain ASCII");
            headers.append(header, value);
        }
    }
}

/// The caller's address as the proxy in front has seen it: the last one. Those before are what the caller says.
fn forwarded_for(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all(FORWARDED_FOR).iter().next_back()?;
    let text = last.to_str().ok()?.rsplit(',').next()?.trim();
    let with_port = || text.parse::<SocketAddr>().ok().map(|socket| socket.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    text.parse().ok().or_else(with_port).or_else(in_brackets)
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let host_bits = u128::BITS - NETWORK_BITS;
            let bits = address.to_bits() >> host_bits << host_bits;
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(values: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(FORWARDED_FOR, HeaderValue::from_static(value));
        }
        forwarded_for(&headers).map(|address| address.to_string())
    }

    #[test]
    fn the_address_is_the_one_that_the_proxy_saw() {
        for (values, address) in [
            (&["203.0.113.7"][..], Some("203.0.113.7")),
            (&["10.0.0.1, 203.0.113.7"], Some("203.0.113.7")),
            (
                &["10.0.0.1", "10.0.0.2,203.0.113.7:4711"],
                Some("203.0.113.7"),
            ),
            (&["[2001:db8::1]:80"], Some("2001:db8::1")),
            (&["[2001:db8::1]"], Some("2001:db8::1")),
            (&["203.0.113.7, unknown"], None),
            (&[], None),
        ] {
            assert_eq!(forwarded(values).as_deref(), address, "{values:?}");
        }
    }

    #[test]
    fn a_network_of_ipv6_is_one_caller() {
        let of = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("203.0.113.7"), "203.0.113.7");
        assert_eq!(of("::ffff:203.0.113.7"), "203.0.113.7");
    }

    #[test]
    fn so_many_may_be_asked_and_no_more_and_each_counts_alone() {
        let limiter = Limiter::new(Rates {
            per_address: None,
            per_user: NonZeroU32::new(2),
            behind_proxy: false,
        });
        let left = |user| limiter.count_user(user).unwrap().left;
        assert_eq!([left(1), left(1), left(1)], [Some(1), Some(0), None]);
        assert_eq!(left(2), Some(1));
    }

    #[tokio::test]
    async fn a_limit_of_nothing_is_none_and_says_nothing() {
        let limiter = Limiter::new(Rates {
            per_address: None,
            per_user: None,
            behind_proxy: false,
        });
        let answer = async { Ok(().into_response()) };
        let response = within(limiter.count_user(1), answer).await;
        assert!(response.headers().is_empty());
    }

    #[tokio::test]
    async fn who_asks_too_often_is_told_so_and_nothing_is_done() {
        let limiter = Limiter::new(Rates {
            per_address: None,
            per_user: NonZeroU32::new(1),
            behind_proxy: false,
        });
        assert!(limiter.count_user(1).unwrap().left.is_some());
        let answer = async { panic!("this was done") };
        let response = within(limiter.count_user(1), answer).await;
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(response.status(), 429);
        assert_eq!(header("ratelimit-policy"), "\"user\";q=1;w=1");
        assert_eq!(header("ratelimit"), "\"user\";r=0;t=1");
        assert_eq!(header("retry-after"), "1");
    }
}
