use proptest::prelude::*;
use serde_json::{Value, json};

use super::step::{HEALTHY, UNHEALTHY_GRACE};
use super::*;
use crate::node::recover;
use crate::node::status::{self, Picture};
use k8s_openapi::api::core::v1 as core;

/// A pod, its machine, and time that moves only when told to.
struct Story {
    pod: core::Pod,
    plan: Plan,
    state: State,
    now: Moment,
}

fn pod(spec: Value) -> core::Pod {
    let value = json!({ "metadata": { "name": "p", "namespace": "ns", "uid": "u", "generation": 1 }, "spec": spec });
    serde_json::from_value(value).expect("a pod")
}

impl Story {
    fn of(spec: Value) -> Story {
        let pod = pod(spec);
        let plan = Plan::of(&pod);
        let now = Moment { at: Instant::now(), wall: Timestamp::from_second(1_700_000_000).expect("a time") };
        let state = State::new(&plan, now);
        Story { pod, plan, state, now }
    }

    /// A pod whose surroundings are made.
    fn begun(spec: Value) -> (Story, Vec<Action>) {
        let mut story = Story::of(spec);
        assert_eq!(story.step(Event::Tick), [Action::Prepare]);
        let actions = story.step(Event::Prepared(Ok(())));
        (story, actions)
    }

    fn step(&mut self, event: Event) -> Vec<Action> {
        step(&self.plan, &mut self.state, event, self.now)
    }

    fn later(&mut self, by: Duration) -> Vec<Action> {
        self.now.at += by;
        self.now.wall = self.now.wall.saturating_add(by).expect("a time");
        self.step(Event::Tick)
    }

    fn start(&mut self, index: Index) -> Vec<Action> {
        let run = self.state.cells[index].restarts;
        self.step(Event::Started { index, run, image_id: "sha256:x".into(), id: None, found: None })
    }

    fn exit(&mut self, index: Index, code: i32) -> Vec<Action> {
        self.exit_after(index, code, false)
    }

    fn exit_after(&mut self, index: Index, code: i32, served: bool) -> Vec<Action> {
        let run = self.state.cells[index].restarts;
        let ended = Ended {
            code,
            reason: if code == 0 { "Completed" } else { "Error" }.into(),
            message: String::new(),
            started_at: self.now.wall,
            finished_at: self.now.wall,
            run,
            id: None,
        };
        self.step(Event::Exited { index, run, ended, served })
    }

    fn status(&self) -> core::PodStatus {
        status::build(&Picture {
            pod: &self.pod,
            plan: &self.plan,
            state: &self.state,
            ip: "127.64.0.1".parse().ok(),
            host_ip: [127, 0, 0, 1].into(),
            runtime: "wasm",
            previous: None,
            now: self.now.wall,
        })
    }

    fn phase(&self) -> String {
        self.status().phase.unwrap_or_default()
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let conditions = self.status().conditions.unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition.type_ == kind).expect("a condition");
        (found.status, found.reason.unwrap_or_default())
    }

    fn waiting(&self, index: usize) -> String {
        let statuses = self.status().container_statuses.unwrap_or_default();
        let state = statuses[index].state.clone().unwrap_or_default();
        state.waiting.and_then(|waiting| waiting.reason).unwrap_or_default()
    }
}

fn launches(actions: &[Action]) -> Vec<Index> {
    let of = |action: &Action| if let Action::Launch { index, .. } = action { Some(*index) } else { None };
    actions.iter().filter_map(of).collect()
}

fn stops(actions: &[Action]) -> Vec<Index> {
    let of = |action: &Action| if let Action::Stop { index, .. } = action { Some(*index) } else { None };
    actions.iter().filter_map(of).collect()
}

fn told(actions: &[Action]) -> Vec<&'static str> {
    let of = |action: &Action| if let Action::Tell(note) = action { Some(note.reason) } else { None };
    actions.iter().filter_map(of).collect()
}

fn one(policy: &str) -> Value {
    json!({ "restartPolicy": policy, "containers": [{ "name": "c", "image": "hello:1" }] })
}

fn refusal(kind: RefusalKind, reason: &'static str) -> Refusal {
    Refusal { kind, reason, message: "why".into() }
}

#[test]
fn a_pod_becomes_ready_when_its_containers_have_started() {
    let (mut story, actions) = Story::begun(json!({ "containers": [{ "name": "a" }, { "name": "b" }] }));
    assert_eq!(launches(&actions), [0, 1]);
    assert_eq!((story.phase().as_str(), story.waiting(0).as_str()), ("Pending", "ContainerCreating"));
    assert_eq!(told(&story.start(0)), ["Created", "Started"]);
    assert_eq!(story.phase(), "Pending");
    story.start(1);
    assert_eq!(story.phase(), "Running");
    assert_eq!(story.condition("Ready"), ("True".into(), String::new()));
    assert!(!story.state.unsettled(story.now.at));
    assert_eq!(story.state.wake(), None, "an idle pod wakes nobody");
}

#[test]
fn init_containers_run_in_order_and_sidecars_beside() {
    let (mut story, actions) = Story::begun(json!({
        "initContainers": [{ "name": "first" }, { "name": "side", "restartPolicy": "Always" }, { "name": "second" }],
        "containers": [{ "name": "main" }],
    }));
    assert_eq!(launches(&actions), [0]);
    assert_eq!(story.waiting(0), "PodInitializing");
    assert_eq!(story.condition("Initialized"), ("False".into(), "ContainersNotInitialized".into()));
    story.start(0);
    assert_eq!(launches(&story.exit(0, 0)), [1]);
    assert_eq!(launches(&story.start(1)), [2]);
    story.start(2);
    assert_eq!(launches(&story.exit(2, 0)), [3]);
    story.start(3);
    assert_eq!(story.condition("Initialized").0, "True");
    assert_eq!(story.condition("Ready").0, "True");
    assert_eq!(launches(&story.exit(1, 0)), [1], "a sidecar is kept up whatever its code");
}

#[test]
fn the_restart_policy_decides() {
    for (policy, code, restarted, phase) in [
        ("Always", 0, true, "Running"),
        ("Always", 1, true, "Running"),
        ("OnFailure", 0, false, "Succeeded"),
        ("OnFailure", 1, true, "Running"),
        ("Never", 0, false, "Succeeded"),
        ("Never", 1, false, "Failed"),
    ] {
        let (mut story, _) = Story::begun(one(policy));
        story.start(0);
        let actions = story.exit(0, code);
        assert_eq!(launches(&actions), if restarted { vec![0] } else { vec![] }, "{policy} {code}");
        assert_eq!(actions.contains(&Action::Release), !restarted, "{policy} {code}");
        assert_eq!(story.phase(), phase, "{policy} {code}");
    }
}

#[test]
fn a_failed_init_container_fails_a_pod_that_is_never_restarted() {
    let mut spec = one("Never");
    spec["initContainers"] = json!([{ "name": "first" }]);
    let (mut story, _) = Story::begun(spec);
    story.start(0);
    assert!(story.exit(0, 3).contains(&Action::Release));
    assert_eq!(story.phase(), "Failed");
}

#[test]
fn the_first_restart_is_at_once_then_the_back_off_grows() {
    let (mut story, _) = Story::begun(one("Always"));
    story.start(0);
    assert_eq!(launches(&story.exit(0, 134)), [0]);
    for millis in [10, 20, 40, 80] {
        story.start(0);
        assert_eq!(told(&story.exit(0, 134)), ["BackOff"]);
        assert_eq!(story.waiting(0), "CrashLoopBackOff");
        assert_eq!(story.state.wake(), Some(story.now.at + Duration::from_millis(millis)));
        assert!(launches(&story.later(Duration::from_millis(millis - 1))).is_empty());
        assert_eq!(launches(&story.later(Duration::from_millis(1))), [0]);
    }
    let status = story.status().container_statuses.unwrap_or_default();
    assert_eq!(status[0].restart_count, 5);
    let last = status[0].last_state.clone().and_then(|last| last.terminated).expect("an end");
    assert_eq!(last.exit_code, 134);
}

#[test]
fn health_or_service_forgives_earlier_failures() {
    for served in [false, true] {
        let (mut story, _) = Story::begun(one("Always"));
        story.start(0);
        story.exit(0, 1);
        story.start(0);
        if !served {
            story.later(HEALTHY);
        }
        assert_eq!(launches(&story.exit_after(0, 1, served)), [0], "served: {served}");
    }
}

#[test]
fn callers_wait_for_a_restart_but_not_for_a_crash_loop() {
    let (mut story, _) = Story::begun(one("Always"));
    assert_eq!(story.state.door(0, story.now.at), Door::Shut);
    story.start(0);
    assert_eq!(story.state.door(0, story.now.at), Door::Open);
    story.exit(0, 1);
    assert_eq!(story.state.door(0, story.now.at), Door::Held);
    for _ in 0..10 {
        story.start(0);
        story.exit(0, 1);
        if story.state.door(0, story.now.at) == Door::Shut {
            return;
        }
        story.later(Duration::from_secs(5));
    }
    panic!("a container that crashes again and again keeps its callers waiting");
}

#[test]
fn an_image_that_cannot_be_had_is_tried_again() {
    let (mut story, _) = Story::begun(one("Never"));
    story.step(Event::Refused { index: 0, run: 0, refusal: refusal(RefusalKind::Image, "ErrImagePull") });
    assert_eq!(story.waiting(0), "ErrImagePull");
    assert_eq!(launches(&story.later(Duration::from_secs(1))), [0]);
    assert_eq!(story.waiting(0), "ErrImagePull", "what is in the way is told while it is tried again");
    let again = Event::Refused { index: 0, run: 0, refusal: refusal(RefusalKind::Image, "ErrImagePull") };
    assert_eq!(told(&story.step(again)), ["BackOff", "Failed"]);
    assert_eq!((story.waiting(0).as_str(), story.phase().as_str()), ("ImagePullBackOff", "Pending"));
    story.later(Duration::from_secs(10));
    story.start(0);
    assert_eq!((story.phase().as_str(), story.state.cells[0].restarts), ("Running", 0));
}

#[test]
fn wrong_configuration_is_looked_at_again_without_counting_as_a_restart() {
    let (mut story, _) = Story::begun(one("Always"));
    for _ in 0..3 {
        let refused = refusal(RefusalKind::Config, "CreateContainerConfigError");
        story.step(Event::Refused { index: 0, run: 0, refusal: refused });
        assert_eq!(story.waiting(0), "CreateContainerConfigError");
        assert_eq!(launches(&story.later(Duration::from_secs(10))), [0]);
    }
    assert_eq!(story.state.cells[0].restarts, 0);
}

#[test]
fn a_guest_that_fails_to_start_counts_as_a_life() {
    let (mut story, _) = Story::begun(one("Never"));
    let actions =
        story.step(Event::Refused { index: 0, run: 0, refusal: refusal(RefusalKind::Run, "RunContainerError") });
    assert!(actions.contains(&Action::Release));
    assert_eq!(story.phase(), "Failed");
    let status = story.status().container_statuses.unwrap_or_default();
    let ended = status[0].state.clone().and_then(|state| state.terminated).expect("an end");
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (128, Some("StartError")));
}

#[test]
fn readiness_follows_its_probe_and_is_asked_at_once_after_a_restart() {
    let (mut story, _) = Story::begun(json!({ "containers": [{
        "name": "c", "readinessProbe": { "httpGet": { "port": 80 }, "initialDelaySeconds": 5, "periodSeconds": 3 },
    }] }));
    story.start(0);
    assert_eq!(story.condition("Ready"), ("False".into(), "ContainersNotReady".into()));
    assert_eq!(story.later(Duration::from_secs(4)), []);
    let probe = |run| Action::Probe { index: 0, run, kind: ProbeKind::Readiness };
    assert_eq!(story.later(Duration::from_secs(1)), [probe(0)]);
    let answered = |run, answer| Event::Probed { index: 0, run, kind: ProbeKind::Readiness, answer };
    story.step(answered(0, Answer::Success));
    assert_eq!(story.condition("Ready").0, "True");
    story.exit(0, 1);
    story.start(0);
    assert_eq!(story.step(Event::Tick), [probe(1)]);
    story.step(answered(0, Answer::Success));
    assert_eq!(story.condition("Ready").0, "False", "the answer of an earlier life says nothing");
    story.step(answered(1, Answer::Success));
    assert_eq!(story.condition("Ready").0, "True");
    for _ in 0..3 {
        assert_eq!(told(&story.step(answered(1, Answer::Failure("no".into())))), ["Unhealthy"]);
    }
    assert_eq!(story.condition("Ready").0, "False");
}

#[test]
fn a_container_that_fails_its_liveness_probe_is_restarted() {
    let (mut story, _) = Story::begun(json!({ "terminationGracePeriodSeconds": 30, "containers": [{
        "name": "c", "livenessProbe": { "httpGet": { "port": 80 }, "failureThreshold": 1 },
    }] }));
    story.start(0);
    story.step(Event::Tick);
    let failed = Answer::Failure("no".into());
    let actions = story.step(Event::Probed { index: 0, run: 0, kind: ProbeKind::Liveness, answer: failed });
    assert_eq!(told(&actions), ["Unhealthy", "Killing"]);
    assert!(actions.contains(&Action::Stop { index: 0, run: 0, grace: UNHEALTHY_GRACE, hook: false }));
    assert_eq!(story.state.door(0, story.now.at), Door::Held);
    assert_eq!(launches(&story.exit(0, 137)), [0]);
}

#[test]
fn the_other_probes_wait_for_the_startup_probe() {
    let get = json!({ "httpGet": { "port": 80 } });
    let (mut story, _) = Story::begun(json!({ "containers": [{
        "name": "c", "startupProbe": get, "readinessProbe": get, "livenessProbe": get,
    }] }));
    story.start(0);
    let probe = |kind| Action::Probe { index: 0, run: 0, kind };
    assert_eq!(story.step(Event::Tick), [probe(ProbeKind::Startup)]);
    story.step(Event::Probed { index: 0, run: 0, kind: ProbeKind::Startup, answer: Answer::Success });
    assert_eq!(story.step(Event::Tick), [probe(ProbeKind::Readiness), probe(ProbeKind::Liveness)]);
}

#[test]
fn a_changed_image_replaces_the_container_at_once() {
    let (mut story, _) = Story::begun(one("Never"));
    story.start(0);
    assert_eq!(stops(&story.step(Event::Changed { index: 0 })), [0]);
    assert_eq!(launches(&story.exit(0, 0)), [0]);
}

#[test]
fn a_pod_leaves_the_tables_and_runs_its_hooks_before_it_stops() {
    let (mut story, _) = Story::begun(json!({
        "initContainers": [{ "name": "side", "restartPolicy": "Always" }],
        "containers": [{ "name": "c", "lifecycle": { "preStop": { "sleep": { "seconds": 1 } } } }],
    }));
    story.start(0);
    story.start(1);
    let grace = Duration::from_secs(30);
    let actions = story.step(Event::Delete { grace });
    assert!(actions.contains(&Action::Hook { index: 1, limit: grace }));
    assert!(actions.contains(&Action::Leave { limit: grace }));
    assert!(stops(&actions).is_empty());
    assert_eq!(story.state.door(1, story.now.at), Door::Open, "it serves those who come by an old table");
    assert!(stops(&story.step(Event::Left)).is_empty());
    assert_eq!(stops(&story.step(Event::HookDone)), [1]);
    assert_eq!(story.state.door(1, story.now.at), Door::Shut);
    assert_eq!(stops(&story.exit(1, 0)), [0], "sidecars end last");
    assert_eq!(story.exit(0, 0), [Action::Release, Action::Remove]);
    assert_eq!(story.phase(), "Succeeded");
}

#[test]
fn grace_can_only_become_shorter_and_its_end_is_the_end() {
    let (mut story, _) = Story::begun(one("Always"));
    story.start(0);
    story.step(Event::Delete { grace: Duration::from_secs(30) });
    story.step(Event::Left);
    let hastened = story.step(Event::Delete { grace: Duration::from_secs(1) });
    assert_eq!(hastened, [Action::Stop { index: 0, run: 0, grace: Duration::from_secs(1), hook: false }]);
    assert_eq!(story.step(Event::Delete { grace: Duration::from_secs(60) }), []);
    assert_eq!(story.later(Duration::from_secs(1)), []);
    assert_eq!(
        story.later(OVERTIME),
        [Action::Release, Action::Remove],
        "a runtime that never answers holds nothing up"
    );
    assert_eq!(story.phase(), "Failed");
}

#[test]
fn a_pod_that_is_deleted_while_it_crashes_or_starts_ends_too() {
    let (mut story, _) = Story::begun(one("Always"));
    story.start(0);
    story.exit(0, 1);
    story.start(0);
    story.exit(0, 1);
    assert_eq!(story.step(Event::Delete { grace: HEALTHY }), [Action::Release, Action::Remove]);
    let (mut story, _) = Story::begun(one("Always"));
    assert_eq!(story.step(Event::Delete { grace: HEALTHY }), []);
    assert_eq!(stops(&story.start(0)), [0]);
    assert_eq!(story.exit(0, 137), [Action::Release, Action::Remove]);
    let mut story = Story::of(one("Always"));
    story.step(Event::Tick);
    assert_eq!(story.step(Event::Delete { grace: HEALTHY }), [Action::Release, Action::Remove]);
}

#[test]
fn a_forgotten_pod_ends_without_a_word_to_the_api() {
    let (mut story, _) = Story::begun(one("Always"));
    story.start(0);
    story.step(Event::Forgotten);
    story.step(Event::Left);
    assert_eq!(story.exit(0, 0), [Action::Release, Action::Done]);
}

#[test]
fn a_finished_pod_is_removed_when_asked() {
    let (mut story, _) = Story::begun(one("Never"));
    story.start(0);
    story.exit(0, 0);
    assert_eq!(story.condition("Ready"), ("False".into(), "PodCompleted".into()));
    assert_eq!(story.step(Event::Delete { grace: HEALTHY }), [Action::Remove]);
}

#[test]
fn a_pod_may_not_be_active_longer_than_its_deadline() {
    let mut spec = one("Always");
    spec["activeDeadlineSeconds"] = json!(5);
    let (mut story, _) = Story::begun(spec);
    story.start(0);
    assert_eq!(story.state.wake(), Some(story.now.at + Duration::from_secs(5)));
    story.later(Duration::from_secs(5));
    story.step(Event::Left);
    assert_eq!(story.exit(0, 137), [Action::Release]);
    assert_eq!((story.phase().as_str(), story.status().reason.as_deref()), ("Failed", Some("DeadlineExceeded")));
}

#[test]
fn surroundings_that_cannot_be_made_are_tried_again() {
    let mut story = Story::of(one("Always"));
    story.step(Event::Tick);
    assert_eq!(told(&story.step(Event::Prepared(Err(("FailedMount", "why".into()))))), ["FailedMount"]);
    assert_eq!(story.step(Event::Tick), []);
    assert_eq!(story.later(Duration::from_secs(1)), [Action::Prepare]);
}

#[test]
fn a_node_that_comes_back_finds_its_pods_in_their_status() {
    let (mut story, _) = Story::begun(one("Always"));
    story.start(0);
    let mut pod = story.pod.clone();
    pod.status = Some(story.status());
    let mut state = recover::state(&story.plan, &pod, story.now, &|_| false);
    assert_eq!(state.started_at, story.state.started_at);
    step(&story.plan, &mut state, Event::Tick, story.now);
    let actions = step(&story.plan, &mut state, Event::Prepared(Ok(())), story.now);
    assert_eq!(actions, [Action::Launch { index: 0, run: 1 }]);
    let last = state.cells[0].last.clone().expect("the end of the life before");
    assert_eq!((last.code, last.run), (137, 0));
}

#[test]
fn what_had_ended_for_good_stays_ended() {
    let (mut story, _) = Story::begun(one("OnFailure"));
    story.start(0);
    story.exit(0, 0);
    let mut pod = story.pod.clone();
    pod.status = Some(story.status());
    let state = recover::state(&story.plan, &pod, story.now, &|_| false);
    assert_eq!(state.stage, Stage::Finished(Cause::Completed));
    let recovered = Story { state, ..story };
    assert!(!status::differs(pod.status.as_ref(), &recovered.status()));
}

#[derive(Debug, Clone)]
enum Chance {
    Start(Index),
    Refuse(Index, u8),
    Exit(Index, i32, bool),
    Probe(Index, bool),
    Changed(Index),
    Later(u64),
    Hook,
    Left,
    Delete(u64),
    Forget,
}

fn chance() -> impl Strategy<Value = Chance> {
    let index = 0_usize..4;
    prop_oneof![
        index.clone().prop_map(Chance::Start),
        (index.clone(), 0_u8..3).prop_map(|(index, kind)| Chance::Refuse(index, kind)),
        (index.clone(), 0..2, any::<bool>()).prop_map(|(index, code, served)| Chance::Exit(index, code, served)),
        (index.clone(), any::<bool>()).prop_map(|(index, ok)| Chance::Probe(index, ok)),
        index.prop_map(Chance::Changed),
        (0_u64..20_000).prop_map(Chance::Later),
        Just(Chance::Hook),
        Just(Chance::Left),
        (0_u64..40).prop_map(Chance::Delete),
        Just(Chance::Forget),
    ]
}

impl Story {
    fn happen(&mut self, chance: Chance) -> Vec<Action> {
        match chance {
            Chance::Start(index) => self.start(index),
            Chance::Refuse(index, kind) => {
                let kind = [RefusalKind::Image, RefusalKind::Config, RefusalKind::Run][usize::from(kind)];
                let run = self.state.cells[index].restarts;
                self.step(Event::Refused { index, run, refusal: refusal(kind, "ErrImagePull") })
            }
            Chance::Exit(index, code, served) => self.exit_after(index, code, served),
            Chance::Probe(index, ok) => {
                let answer = if ok { Answer::Success } else { Answer::Failure("no".into()) };
                let run = self.state.cells[index].restarts;
                self.step(Event::Probed { index, run, kind: ProbeKind::Liveness, answer })
            }
            Chance::Changed(index) => self.step(Event::Changed { index }),
            Chance::Later(millis) => self.later(Duration::from_millis(millis)),
            Chance::Hook => self.step(Event::HookDone),
            Chance::Left => self.step(Event::Left),
            Chance::Delete(seconds) => self.step(Event::Delete { grace: Duration::from_secs(seconds) }),
            Chance::Forget => self.step(Event::Forgotten),
        }
    }
}

proptest! {
    /// Whatever happens in whatever order: restart counts only rise, main containers wait for the init
    /// ones, nothing is launched once the end has begun, and a deleted pod always comes to its end.
    #[test]
    fn any_life_keeps_its_order_and_finds_its_end(
        policy in prop::sample::select(vec!["Always", "OnFailure", "Never"]),
        chances in prop::collection::vec(chance(), 0..60),
    ) {
        let (mut story, _) = Story::begun(json!({
            "restartPolicy": policy,
            "initContainers": [{ "name": "i" }, { "name": "s", "restartPolicy": "Always" }],
            "containers": [
                { "name": "a", "livenessProbe": { "httpGet": { "port": 80 } } },
                { "name": "b", "lifecycle": { "preStop": { "sleep": { "seconds": 1 } } } },
            ],
        }));
        for chance in chances {
            let before: Vec<u32> = story.state.cells.iter().map(|cell| cell.restarts).collect();
            let actions = story.happen(chance);
            for (cell, before) in story.state.cells.iter().zip(before) {
                prop_assert!(cell.restarts >= before);
            }
            let launched = launches(&actions);
            prop_assert!(launched.is_empty() || story.state.stage == Stage::Active);
            prop_assert!(!launched.iter().any(|index| *index >= 2) || story.state.cells[0].succeeded());
            story.status();
        }
        story.step(Event::Delete { grace: Duration::from_secs(1) });
        let mut removed = story.state.stage == Stage::Finished(Cause::Deleted);
        for _ in 0..4 {
            let actions = story.later(Duration::from_secs(5));
            removed |= actions.iter().any(|action| matches!(action, Action::Remove | Action::Done));
        }
        prop_assert!(removed || story.state.stage == Stage::Finished(Cause::Gone));
        prop_assert!(matches!(story.state.stage, Stage::Finished(_)));
    }
}

#[test]
fn a_container_that_outlives_the_process_is_looked_for_and_goes_on() {
    let mut story = Story::of(json!({ "containers": [{ "name": "web", "image": "hello:1" }] }));
    let running = json!({ "phase": "Running", "startTime": "2023-11-14T00:00:00Z", "podIP": "10.0.0.2",
        "containerStatuses": [{
            "name": "web", "image": "hello:1", "imageID": "x", "ready": true, "restartCount": 2,
            "containerID": "docker://5f", "state": { "running": { "startedAt": "2023-11-14T00:00:01Z" } },
            "lastState": { "terminated": { "exitCode": 1, "containerID": "docker://5e" } },
        }] });
    story.pod.status = Some(serde_json::from_value(running).expect("a status"));
    story.state = recover::state(&story.plan, &story.pod, story.now, &|id| id.starts_with("docker://"));
    let shown = |story: &Story| story.status().container_statuses.expect("one").remove(0);
    let before = shown(&story);
    assert!(before.state.is_some_and(|state| state.running.is_some()), "it runs, as far as is known");
    assert_eq!(before.container_id.as_deref(), Some("docker://5f"));
    story.step(Event::Tick);
    let actions = story.step(Event::Prepared(Ok(())));
    assert_eq!(actions, [Action::Launch { index: 0, run: 2 }], "the same life");
    let found = Timestamp::from_second(1_699_920_001).ok();
    let actions =
        story.step(Event::Started { index: 0, run: 2, image_id: "x".into(), id: Some("docker://5f".into()), found });
    assert_eq!(actions, [], "nothing has happened that were worth an event");
    let after = shown(&story);
    assert_eq!((after.restart_count, after.container_id.as_deref()), (2, Some("docker://5f")));
    let since = after.state.and_then(|state| state.running?.started_at);
    assert_eq!(since.map(|time| time.0), found);
    let last = after.last_state.and_then(|state| state.terminated?.container_id);
    assert_eq!(last.as_deref(), Some("docker://5e"));
}
