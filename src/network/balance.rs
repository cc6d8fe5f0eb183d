//! Which endpoint takes a call.
//!
//! Of two endpoints drawn by chance, the one with fewer calls in flight: nearly as even as looking at
//! all of them, and two requests at once do not rush to the same one. An endpoint that refused a
//! connection is passed over for a moment, unless there is no other. With client affinity a client stays
//! where it was ([`Affinity`]); where it goes first its address decides (highest random weight), so that the
//! node processes of a machine, which share its addresses, agree without asking each other. Pure but for the
//! counters.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::table::Endpoint;

/// How long an endpoint is passed over after one refusal; doubled by each further one.
const FIRST_REST: Duration = Duration::from_millis(100);
/// At most this: the table, not this guess, is to say that an endpoint has gone.
const LONGEST_REST: Duration = Duration::from_secs(3);

/// Clients whom an [`Affinity`] remembers.
const CLIENTS: usize = 16_384;

/// What calls have told of an endpoint. It outlives route tables.
#[derive(Debug, Default)]
pub struct Health {
    in_flight: AtomicU32,
    refusals: AtomicU32,
    /// Milliseconds on [`clock_ms`].
    rests_until: AtomicU64,
}

/// Where clients have been, for Services with `sessionAffinity: ClientIP`. It outlives route tables: a client
/// does not move because another endpoint has come. As upstream, each call begins the time anew after which
/// the client is a stranger.
#[derive(Debug)]
pub struct Affinity {
    timeout_ms: u64,
    clients: Mutex<HashMap<IpAddr, Visit>>,
}

#[derive(Debug, Clone, Copy)]
struct Visit {
    endpoint: SocketAddr,
    last_ms: u64,
}

impl Affinity {
    pub fn new(timeout: Duration) -> Self {
        Self { timeout_ms: timeout.as_millis().try_into().unwrap_or(u64::MAX), clients: Mutex::default() }
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    fn endpoint_of(&self, client: IpAddr, now_ms: u64) -> Option<SocketAddr> {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let visit = clients.get(&client)?;
        self.is_fresh(visit, now_ms).then_some(visit.endpoint)
    }

    fn note(&self, client: IpAddr, endpoint: SocketAddr, now_ms: u64) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= CLIENTS && !clients.contains_key(&client) {
            clients.retain(|_, visit| self.is_fresh(visit, now_ms));
            if clients.len() >= CLIENTS {
                // Its address decides alone; that is where it goes most of the time anyway.
                return;
            }
        }
        clients.insert(client, Visit { endpoint, last_ms: now_ms });
    }

    fn is_fresh(&self, visit: &Visit, now_ms: u64) -> bool {
        now_ms.saturating_sub(visit.last_ms) <= self.timeout_ms
    }
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
    /// The client's address and where clients have been, if the Service wants affinity.
    pub(super) client: Option<(IpAddr, &'a Affinity)>,
    /// Endpoints that this call has tried already.
    pub(super) tried: &'a [SocketAddr],
    pub(super) now_ms: u64,
    pub(super) chance: u64,
}

/// The endpoint for one call; `None` when all have been tried.
pub(super) fn pick<'e>(endpoints: &'e [Endpoint], draw: &Draw<'_>) -> Option<&'e Endpoint> {
    if let Some((client, affinity)) = draw.client {
        let before = affinity.endpoint_of(client, draw.now_ms);
        let fits = |endpoint: &&Endpoint| {
            Some(endpoint.address) == before
                && !draw.tried.contains(&endpoint.address)
                && !endpoint.health.rests(draw.now_ms)
        };
        let picked = endpoints.iter().find(fits).or_else(|| pick_for(endpoints, client, draw))?;
        affinity.note(client, picked.address, draw.now_ms);
        return Some(picked);
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
            let strangers = Affinity::new(Duration::from_secs(1));
            let draw = Draw { client: Some((client(n), &strangers)), tried: &[], now_ms: 1, chance: u64::from(n) };
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

    #[test]
    fn a_client_stays_where_it_was_until_it_has_been_away_too_long() {
        let all = endpoints(5);
        let known = Affinity::new(Duration::from_secs(10));
        let go = |endpoints: &[Endpoint], n: u8, now_ms| {
            let client = Some((IpAddr::from([127, 0, 0, n]), &known));
            let draw = Draw { client, tried: &[], now_ms, chance: 0 };
            pick(endpoints, &draw).map(|endpoint| endpoint.address)
        };
        let first: Vec<_> = (0..100).map(|n| go(&all[..2], n, 1_000)).collect();
        for (n, was) in (0..100).zip(&first) {
            assert_eq!(go(&all, n, 10_000), *was, "more endpoints move nobody");
            assert_eq!(go(&all, n, 20_000), *was, "each call begins the time anew");
        }
        let moved = (0..100).zip(&first).filter(|(n, was)| go(&all, *n, 30_001) != **was).count();
        assert!(moved > 20, "strangers spread over all: {moved}");
        let gone = go(&all, 0, 30_002).expect("an endpoint");
        let left: Vec<Endpoint> = all.iter().filter(|one| one.address != gone).cloned().collect();
        let next = go(&left, 0, 30_003);
        assert_ne!(next, Some(gone));
        assert_eq!(go(&all, 0, 30_004), next, "who had to move stays there");
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
