//! Which jobs run when, and how they end.

use std::sync::Arc;
use std::time::Duration;

use holdfast_agents::runtime::*;

use crate::toy::*;

fn job(name: &str, object: &str) -> Action {
    Action::Job(work(name, object))
}

fn started_names(bench: &Bench<Toy>) -> Vec<String> {
    bench.jobs().into_iter().map(|work| work.name).collect()
}

#[test]
fn the_same_job_is_not_started_twice_while_it_waits_or_runs() {
    let (mut bench, heard) = started();
    order(&mut bench, vec![job("copy", "db"), job("copy", "db")]).unwrap();
    order(&mut bench, vec![job("check", "db"), job("copy", "db"), job("check", "db")]).unwrap();
    assert_eq!(started_names(&bench), ["copy"]);
    assert_eq!(bench.services.jobs.queued().len(), 1);
    bench.run_jobs();
    assert_eq!(heard.take(), ["copy done", "check done"]);

    order(&mut bench, vec![job("copy", "db")]).unwrap();
    bench.run_jobs();
    assert_eq!(heard.take(), ["copy done"], "after its end it may be issued again");
}

#[test]
fn jobs_of_one_object_run_one_at_a_time_in_order_and_others_do_not_wait_for_them() {
    let (mut bench, heard) = started();
    order(&mut bench, vec![job("1", "db"), job("2", "db"), job("3", "web"), job("4", "db")]).unwrap();
    assert_eq!(started_names(&bench), ["1", "3"]);
    bench.run_job(|work| work.name == "3");
    assert_eq!(started_names(&bench), ["1"]);
    bench.run_job(|work| work.name == "1");
    assert_eq!(started_names(&bench), ["2"]);
    bench.run_jobs();
    assert_eq!(heard.take(), ["3 done", "1 done", "2 done", "4 done"]);
}

#[test]
fn a_backend_has_its_limit_and_another_backend_does_not_feel_it() {
    let (mut bench, _) = started();
    let limit = JobLimits::for_cores(2).storage;
    let mut actions: Vec<Action> =
        (0..limit + 2).map(|n| job(&format!("s{n}"), &format!("volume {n}"))).collect();
    actions.push(Action::Job(Work { storage: false, ..work("fetch", "image") }));
    // Behind a storage job that waits, of the same object: it waits too, order is kept.
    actions.push(Action::Job(Work { storage: false, ..work("late", &format!("volume {limit}")) }));
    order(&mut bench, actions).unwrap();
    let names = started_names(&bench);
    assert_eq!(names.len(), limit + 1);
    assert_eq!(names.last().map(String::as_str), Some("fetch"));
    bench.run_job(|work| work.name == "s0");
    assert_eq!(started_names(&bench).last().map(String::as_str), Some(&*format!("s{limit}")));
}

/// What a walk through the whole queue starts, oldest first.
fn walked(queued: &mut Vec<Work>, running: &mut Vec<Work>) {
    let limits = JobLimits::for_cores(2);
    let mut passed: Vec<Work> = Vec::new();
    for work in queued.drain(..) {
        let of_backend = running.iter().filter(|other| other.storage == work.storage).count();
        let limit = if work.storage { limits.storage } else { limits.network };
        let is_busy = running.iter().chain(&passed).any(|other| other.object == work.object);
        let goes_to = if is_busy || of_backend >= limit { &mut passed } else { &mut *running };
        goes_to.push(work);
    }
    *queued = passed;
}

#[test]
fn jobs_start_in_the_order_in_which_a_walk_through_the_queue_would_find_them() {
    let (mut bench, _) = started();
    let chance = SeededEntropy::new(7);
    let draw = |below: u64| chance.next_u64() % below;
    let (mut queued, mut running): (Vec<Work>, Vec<Work>) = (Vec::new(), Vec::new());
    let mut most_queued = 0;
    for number in 0..2_000 {
        if draw(100) < 52 || running.is_empty() {
            let job = Work {
                storage: draw(3) > 0,
                ..work(&format!("job {number}"), &format!("object {}", draw(12)))
            };
            queued.push(job.clone());
            order(&mut bench, vec![Action::Job(job)]).unwrap();
        } else {
            let ended = running.remove(draw(running.len() as u64) as usize);
            bench.run_job(|work| work.name == ended.name);
        }
        walked(&mut queued, &mut running);
        let names = |works: &[Work]| works.iter().map(|work| work.name.clone()).collect::<Vec<_>>();
        assert_eq!(started_names(&bench), names(&running), "after {number}");
        assert_eq!(bench.services.jobs.queued().len(), queued.len());
        most_queued = most_queued.max(queued.len());
    }
    assert!(most_queued > 20, "the queue was never long: {most_queued}");
}

#[test]
fn a_cancelled_job_still_ends_with_its_event_also_when_it_had_not_begun() {
    let (mut bench, heard) = started();
    order(&mut bench, vec![job("1", "db"), job("2", "db")]).unwrap();
    order(&mut bench, vec![Action::Cancel(work("1", "db")), Action::Cancel(work("2", "db"))]).unwrap();
    order(&mut bench, vec![Action::Cancel(work("never issued", "db"))]).unwrap();
    bench.run_jobs();
    assert_eq!(heard.take(), ["1 cancelled, done", "2 cancelled, done"]);
}

#[test]
fn of_progress_only_the_newest_is_heard_and_it_comes_before_the_end() {
    let heard = Heard::default();
    let env: DoWork = Arc::new(|work, cx| {
        assert_eq!(cx.id(), &work.id());
        for percent in [10, 50, 90] {
            cx.progress(Event::Progress(format!("{} %", percent)));
        }
    });
    let mut bench = Bench::new(Toy::heard_by(&heard), env);
    bench.start();
    order(&mut bench, vec![job("copy", "db")]).unwrap();
    bench.run_jobs();
    assert_eq!(heard.take(), ["90 %", "copy done"]);
}

#[test]
fn a_job_knows_what_is_left_until_its_deadline() {
    let heard = Heard::default();
    let clock = ManualClock::default();
    let (ticking, saying) = (clock.clone(), heard.clone());
    let env: DoWork = Arc::new(move |_, cx| {
        let left = |cx: &JobContext<Event>| cx.deadline_left().unwrap().as_secs();
        saying.say(format!("{} s left, stop: {}", left(cx), cx.should_stop()));
        ticking.advance(Duration::from_secs(61));
        saying.say(format!("{} s left, stop: {}", left(cx), cx.should_stop()));
    });
    let mut bench = Bench::on(Default::default(), clock, Toy::heard_by(&heard), env);
    bench.start();
    bench.advance(Duration::from_secs(100));
    order(&mut bench, vec![job("copy", "db")]).unwrap();
    bench.run_jobs();
    assert_eq!(heard.take(), ["60 s left, stop: false", "0 s left, stop: true", "copy done"]);
}

#[test]
fn a_watcher_started_by_a_job_may_tell_things_after_its_end() {
    let heard = Heard::default();
    let kept: Arc<std::sync::Mutex<Option<Poster<Event>>>> = Arc::default();
    let keep = Arc::clone(&kept);
    let env: DoWork = Arc::new(move |_, cx| *keep.lock().unwrap() = Some(cx.poster()));
    let mut bench = Bench::new(Toy::heard_by(&heard), env);
    bench.start();
    order(&mut bench, vec![job("watch", "db")]).unwrap();
    bench.run_jobs();
    let poster = kept.lock().unwrap().take().unwrap();
    assert!(poster.post(Event::Progress("guest halted".into())));
    bench.settle();
    assert_eq!(heard.take(), ["watch done", "guest halted"]);
    drop(bench);
    assert!(!poster.post(Event::Progress("nobody hears".into())));
}

#[test]
fn a_panic_in_a_job_is_fatal_unless_its_agent_knows_better() {
    let env: DoWork = Arc::new(|_, _| panic!("the disk ate it"));
    let mut bench = Bench::new(Toy::default(), env);
    bench.start();
    order(&mut bench, vec![job("copy", "db")]).unwrap();
    bench.executor.take(0).unwrap().run();
    let fatal = bench.try_settle().unwrap_err();
    assert_eq!(fatal.to_string(), "the job copy of toy panicked: the disk ate it");
}

#[test]
fn nothing_is_started_after_the_stop_and_what_runs_goes_on() {
    let (mut bench, heard) = started();
    order(&mut bench, vec![job("1", "db"), job("2", "db")]).unwrap();
    bench.services.jobs.stop_starting();
    order(&mut bench, vec![job("3", "web")]).unwrap();
    bench.run_jobs();
    assert_eq!(heard.take(), ["1 done"]);
    assert_eq!(bench.services.jobs.queued().len(), 2);
    assert_eq!(bench.services.jobs.running(), []);
}
