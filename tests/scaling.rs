//! The simulation behind the numbers of the manifests: its HPA agrees with the examples of Kubernetes' documentation, its
//! cluster with what pods and nodes do, and the tables of `k8s/scaling.md` are what it prints.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../benches/scaling/cluster.rs"]
mod cluster;
#[path = "../benches/scaling/controller.rs"]
mod controller;
#[allow(dead_code, reason = "only the spike runs here")]
#[path = "../benches/scaling/demand.rs"]
mod demand;
#[path = "../benches/scaling/hpa.rs"]
mod hpa;
#[allow(dead_code, reason = "plots are not drawn here")]
#[path = "../benches/scaling/ledger.rs"]
mod ledger;
#[path = "../benches/scaling/line.rs"]
mod line;
#[allow(dead_code, reason = "the scheduler's simulation uses the rest")]
#[path = "../benches/simulate/load.rs"]
mod load;
#[allow(dead_code, reason = "plots are not drawn here")]
#[path = "../benches/scaling/pool.rs"]
mod pool;
#[path = "../benches/scaling/table.rs"]
mod table;
#[path = "../benches/scaling/world.rs"]
mod world;

use cluster::{Cluster, Phase};
use demand::Curve;
use hpa::{Autoscaler, Behaviour, Policy, Rules, Usage, by_average, by_utilisation};
use pool::{Pool, Strategy};

/// "If the current metric value is 200m, and the desired value is 100m, the number of replicas will be doubled [...] If the
/// current value is instead 50m, you'll halve the number of replicas [...] The control plane skips any scaling action if the
/// ratio is sufficiently close to 1.0 (within [...] 0.1 by default)."
#[test]
fn replicas_follow_the_ratio_outside_the_tolerance() {
    let pods = |share: f64| [Usage::Share(share); 4];
    assert_eq!(by_utilisation(&pods(0.2), 0.1), Some(8));
    assert_eq!(by_utilisation(&pods(0.05), 0.1), Some(2));
    assert_eq!(by_utilisation(&pods(0.109), 0.1), Some(4));
    assert_eq!(by_utilisation(&pods(0.091), 0.1), Some(4));
    assert_eq!(by_utilisation(&pods(0.112), 0.1), Some(5), "rounded up");
    assert_eq!([by_average(8.0, 2.0, 2), by_average(8.3, 2.0, 4), by_average(9.0, 2.0, 4)], [4, 4, 5]);
    assert_eq!(by_average(0.0, 2.0, 4), 0, "the bounds are the autoscaler's");
}

/// "[...] the controller conservatively assumes that the not-yet-ready pods are consuming 0% of the desired metric, further
/// dampening the magnitude of a scale up. [...] If the new ratio reverses the scale direction, or is within the tolerance, the
/// controller doesn't take any scaling action."
#[test]
fn pods_that_are_not_ready_dampen_the_way_up_and_are_ignored_on_the_way_down() {
    let (busy, idle, starting) = (Usage::Share(0.9), Usage::Share(0.2), Usage::NotReady);
    assert_eq!(by_utilisation(&[busy, busy], 0.3), Some(6));
    assert_eq!(by_utilisation(&[busy, busy, starting, starting], 0.3), Some(6), "not 12");
    assert_eq!(by_utilisation(&[busy, starting, starting, starting], 0.3), Some(4), "0.75: no way back");
    assert_eq!(by_utilisation(&[busy, starting, starting], 0.3), Some(3), "1.0: within the tolerance");
    assert_eq!(by_utilisation(&[idle, idle, starting], 0.4), Some(1), "half of the two that are measured");
    assert_eq!(by_utilisation(&[starting, starting], 0.4), None);
}

/// "For instance if there are 80 replicas and the target has to be scaled down to 10 replicas then during the first step 8
/// replicas will be reduced. In the next iteration when the number of replicas is 72, 10% of the pods is 7.2 but the number is
/// rounded up to 8. [...] When the number of replicas falls below 40 the first policy (Pods) is applied and 4 replicas will be
/// reduced at a time."
#[test]
fn the_way_down_is_that_of_the_documentation() {
    let slowly = Rules { window: 0.0, policies: &[Policy::Pods(4, 60.0), Policy::Percent(10, 60.0)] };
    let mut autoscaler = Autoscaler::new(Behaviour { down: slowly, ..Behaviour::DEFAULT }, 1, 100);
    let (mut replicas, mut went) = (80, vec![]);
    for minute in 0..20 {
        let next = autoscaler.decide(f64::from(minute) * 60.0, replicas, 10);
        assert_eq!(
            autoscaler.decide(f64::from(minute) * 60.0 + 15.0, next, 10),
            next,
            "no more within the minute"
        );
        went.push(replicas - next);
        replicas = next;
    }
    assert_eq!(went[..3], [8, 8, 7], "80, 72, 64, 57");
    assert_eq!(went[7..13], [4, 4, 4, 4, 4, 4], "from 36 on: {went:?}");
    assert_eq!(replicas, 10);
}

#[test]
fn by_default_pods_double_or_four_are_added_in_15_s_and_go_after_five_quiet_minutes() {
    let mut autoscaler = Autoscaler::new(Behaviour::DEFAULT, 2, 100);
    let up = [1.0, 16.0, 31.0, 46.0].into_iter().scan(2, |replicas, at| {
        *replicas = autoscaler.decide(at, *replicas, 90);
        Some(*replicas)
    });
    assert_eq!(up.collect::<Vec<_>>(), [6, 12, 24, 48], "four more, then twice as many");
    assert_eq!(autoscaler.decide(60.0, 48, 5), 48);
    assert_eq!(autoscaler.decide(344.0, 48, 5), 48, "90 was asked for within the last 300 s");
    assert_eq!(autoscaler.decide(347.0, 48, 5), 5);
    assert_eq!(autoscaler.decide(700.0, 5, 0), 2, "never below the least");
}

#[test]
fn a_pod_waits_for_a_node_unless_a_spare_makes_room() {
    let pool = Pool::named("GPU").unwrap();
    let strategy = |spare| Strategy { spare, ..pool.strategies[1] };
    let mut cluster = Cluster::new(pool, &strategy(0), 1);
    cluster.scale(0.0, 2);
    assert_eq!(cluster.bind(0.0).len(), 2);
    cluster.scale(5.0, 3);
    assert_eq!((cluster.bind(5.0).len(), cluster.count(Phase::Pending)), (0, 1));
    let [(node, up)] = cluster.scan(10.0)[..] else { panic!("one node for one pod") };
    assert!((240.0..960.0).contains(&(up - 10.0)), "{up}");
    assert_eq!(cluster.scan(20.0), [], "it is on its way");
    cluster.node_up(node);
    let [(_, ready)] = cluster.bind(up)[..] else { panic!("the pod has a place") };
    assert!(ready - up > pool.start.pull / 2.0, "the node is new and pulls the image");

    let mut cluster = Cluster::new(pool, &strategy(1), 1);
    cluster.scale(0.0, 2);
    assert_eq!((cluster.bind(0.0).len(), cluster.scan(1.0)), (2, vec![]));
    cluster.scale(5.0, 3);
    let [(_, ready)] = cluster.bind(5.0)[..] else { panic!("the spare makes room") };
    assert!(ready - 5.0 < pool.start.pull, "{ready}");
    assert_eq!(cluster.scan(10.0).len(), 1, "the spare wants a node");
}

#[test]
fn empty_nodes_go_after_ten_minutes() {
    let pool = Pool::named("GPU").unwrap();
    let mut cluster = Cluster::new(pool, &Strategy { spare: 0, ..pool.strategies[1] }, 1);
    cluster.scale(0.0, 2);
    cluster.bind(0.0);
    for pod in [0, 1] {
        cluster.pods[pod].phase = Phase::Ready;
    }
    assert_eq!(cluster.scale(100.0, 1), [1], "the youngest is told");
    cluster.end(1, 110.0);
    cluster.scan(110.0);
    cluster.scan(700.0);
    assert_eq!(cluster.nodes(), 2);
    cluster.scan(710.0);
    assert_eq!(cluster.nodes(), 1);
}

/// The rows of the spike, which take seconds; those of the days take minutes. Another machine's logarithm may differ in its
/// last bit, and one request that takes another way moves the last digits.
#[test]
fn the_tables_are_what_the_simulation_prints() {
    let said = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/k8s/scaling.md")).unwrap();
    assert!(said.contains(table::HEAD));
    for pool in &pool::POOLS {
        let title = format!("### {} pool, a tenfold spike", pool.name);
        let section = said.split(&title).nth(1).unwrap().split("###").next().unwrap();
        let runs = table::figures(pool, Curve::Spike);
        for (strategy, figures) in &runs {
            let row = table::row(strategy.name, figures, runs[0].1.node_hours);
            let name = format!("| {} |", strategy.name);
            let there = section.lines().find(|line| line.starts_with(&name));
            let there = there.unwrap_or_else(|| panic!("k8s/scaling.md lacks\n{row}"));
            let close = |(a, b): (f64, f64)| (a - b).abs() <= 0.05 * a.max(b) + 0.05;
            assert!(cells(&row).into_iter().zip(cells(there)).all(close), "printed\n{row}\nwritten\n{there}");
        }
    }
}

/// The figures of a row: percent, seconds, pods and hours.
fn cells(row: &str) -> Vec<f64> {
    let figure = |cell: &str| {
        let (number, unit) = cell.trim_start_matches("< ").split_once(' ').unwrap_or((cell, ""));
        number.parse::<f64>().unwrap() / if unit == "ms" { 1e3 } else { 1.0 }
    };
    row.trim_matches(['|', ' ']).split(" | ").skip(1).map(figure).collect()
}
