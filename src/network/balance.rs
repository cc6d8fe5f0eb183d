//! Which endpoint takes a call.
//!
//! Of two endpoints drawn by chance, the one with fewer calls in flight: nearly as even as looking at
//! all of them, and two requests at once do not rush to the same one. An endpoint that refused a
//! connection is passed over for a moment, unless there is no other. With client affinity the client's
//! address decides (highest random weight), which needs no memory and moves few clients when the
//! endpoints change. Pure but for the counters.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::table::Endpoint;

/// How long an endpoint is passed over after one refusal; doubled by each further one.
const FIRST_REST: Duration = Duration::from_millis(100);
/// At most this: the table, not this guess, is to say that an endpoint has gone.
const LONGEST_REST: Duration = Duration::from_secs(3);

/// What calls have told of an endpoint. It outlives route tables.
#[derive(Debug, Default)]
pub struct Health {
    in_flight: AtomicU32,
    refusals: AtomicU32,
    /// Milliseconds on [`clock_ms`].
    rests_until: AtomicU64,
}

/// A call under way, counted while this lives.
pub(super) struct InFlight(Arc<Health>);

impl Health {
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// The endpoint refused a connection: it rests.
    pub(super) fn refused(&self, now_ms: u64) {
        let before = self.refusals.fetch_add(1, Ordering::Relaxed).min(16);
        let rest = FIRST_REST.saturating_mul(1 << before).min(LONGEST_REST);
        self.rests_until.store(now_ms + rest.as_millis() as u64, Ordering::Relaxed);
    }

    pub(super) fn answered(&self) {
        // Read first: the line stays shared between cores while all is well.
        if self.refusals.load(Ordering::Relaxed) != 0 {
            self.refusals.store(0, Ordering::Relaxed);
            self.rests_until.store(0, Ordering::Relaxed);
        }
    }

    fn rests(&self, now_ms: u64) -> bool {
        let until = self.rests_until.load(Ordering::Relaxed);
        until != 0 && until > now_ms
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Milliseconds since this process first asked.
pub(super) fn clock_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}

/// What a choice depends on besides the endpoints.
pub(super) struct Draw<'a> {
    /// The client's address, where the Service wants affinity.
    pub(super) client: Option<IpAddr>,
    /// Endpoints that this call has tried already.
    pub(super) tried: &'a [SocketAddr],
    pub(super) now_ms: u64,
    pub(super) chance: u64,
}

/// The endpoint for one call; `None` when all have been tried.
pub(super) fn pick<'e>(endpoints: &'e [Endpoint], draw: &Draw<'_>) -> Option<&'e Endpoint> {
    if let Some(client) = draw.client {
        return pick_for(endpoints, client, draw);
    }
    let fresh = |endpoint: &&Endpoint| !draw.tried.contains(&endpoint.address);
    let fit = |endpoint: &&Endpoint| fresh(endpoint) && !endpoint.health.rests(draw.now_ms);
    let (first, second) = two_of(endpoints.len(), draw.chance)?;
    let drawn = [first, second].map(|at| endpoints.get(at).filter(fit));
    match drawn {
        [Some(one), Some(other)] => Some(if load(other) < load(one) { other } else { one }),
        [Some(one), None] | [None, Some(one)] => Some(one),
        // Bad luck or bad times: look at all, from a place drawn by chance.
        [None, None] => {
            let (before, from) = endpoints.split_at_checked(first)?;
            let mut all = from.iter().chain(before);
            all.clone().find(fit).or_else(|| all.find(fresh))
        }
    }
}

fn load(endpoint: &Endpoint) -> u32 {
    endpoint.health.in_flight.load(Ordering::Relaxed)
}

/// Two places below `count`, different where there are two; `None` when there is none.
fn two_of(count: usize, chance: u64) -> Option<(usize, usize)> {
    let count = u64::try_from(count).ok().filter(|count| *count > 0)?;
    let first = (chance & 0xffff_ffff) % count;
    let step = if count > 1 { 1 + (chance >> 32) % (count - 1) } else { 0 };
    Some((first as usize, ((first + step) % count) as usize))
}

/// The endpoint with the highest weight for `client`; resting ones only when there is no other.
fn pick_for<'e>(endpoints: &'e [Endpoint], client: IpAddr, draw: &Draw<'_>) -> Option<&'e Endpoint> {
    endpoints.iter().filter(|endpoint| !draw.tried.contains(&endpoint.address)).max_by_key(|endpoint| {
        // The same in every node process: the hasher's keys are fixed.
        let mut hasher = DefaultHasher::new();
        (client, endpoint.address).hash(&mut hasher);
        (!endpoint.health.rests(draw.now_ms), hasher.finish())
    })
}

/// A number that is random enough to spread calls (xorshift, one state a thread).
pub(super) fn chance() -> u64 {
    use std::cell::Cell;
    thread_local! {
        static STATE: Cell<u64> = Cell::new(rand::random::<u64>() | 1);
    }
    STATE.with(|state| {
        let mut x = state.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        state.set(x);
        x
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoints(count: u16) -> Vec<Endpoint> {
        (1..=count).map(|port| Endpoint::new(SocketAddr::from(([127, 64, 0, 1], port)), Arc::default())).collect()
    }

    fn draw(tried: &[SocketAddr], chance: u64) -> Draw<'_> {
        Draw { client: None, tried, now_ms: 1_000, chance }
    }

    #[test]
    fn the_less_busy_of_two_is_taken() {
        let endpoints = endpoints(2);
        let _call = endpoints[0].health.begin();
        for chance in 0..50 {
            assert_eq!(pick(&endpoints, &draw(&[], chance)).map(|e| e.address), Some(endpoints[1].address));
        }
    }

    #[test]
    fn a_resting_endpoint_is_taken_only_when_there_is_no_other() {
        let endpoints = endpoints(2);
        endpoints[0].health.refused(1_000);
        for chance in 0..50 {
            assert_eq!(pick(&endpoints, &draw(&[], chance)).map(|e| e.address), Some(endpoints[1].address));
        }
        let tried = [endpoints[1].address];
        assert_eq!(pick(&endpoints, &draw(&tried, 7)).map(|e| e.address), Some(endpoints[0].address));
        endpoints[0].health.answered();
        assert!(!endpoints[0].health.rests(1_000));
    }

    #[test]
    fn rests_grow_and_end() {
        let health = Health::default();
        health.refused(0);
        assert!(health.rests(99) && !health.rests(100));
        for _ in 0..40 {
            health.refused(0);
        }
        assert!(health.rests(2_999) && !health.rests(3_000));
    }

    #[test]
    fn affinity_keeps_a_client_and_moves_few_when_an_endpoint_goes() {
        let all = endpoints(5);
        let client = |n: u8| IpAddr::from([127, 0, 0, n]);
        let of = |endpoints: &[Endpoint], n| {
            let draw = Draw { client: Some(client(n)), tried: &[], now_ms: 1, chance: u64::from(n) };
            pick(endpoints, &draw).map(|endpoint| endpoint.address)
        };
        let used: std::collections::HashSet<_> = (0..100).map(|n| of(&all, n)).collect();
        assert_eq!(used.len(), 5, "clients spread over all");
        for n in 0..100 {
            if of(&all, n) != Some(all[4].address) {
                assert_eq!(of(&all, n), of(&all[..4], n), "a client whose endpoint stays does not move");
            }
        }
    }

    proptest! {
        #[test]
        fn every_untried_endpoint_is_found_in_the_end(count in 0..8u16, chances in prop::collection::vec(any::<u64>(), 9)) {
            let endpoints = endpoints(count);
            let mut tried = Vec::new();
            for chance in chances {
                match pick(&endpoints, &draw(&tried, chance)) {
                    Some(endpoint) => {
                        prop_assert!(!tried.contains(&endpoint.address));
                        tried.push(endpoint.address);
                    }
                    None => prop_assert_eq!(tried.len(), usize::from(count)),
                }
            }
            prop_assert_eq!(tried.len(), usize::from(count));
        }
    }
}
