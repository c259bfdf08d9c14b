//! The figures as Markdown, the way `k8s/scaling.md` has them.

use super::{
    demand::Curve,
    ledger::Figures,
    pool::{Pool, Strategy},
    world,
};

/// The seed of every table.
pub(crate) const SEED: u64 = 9;

/// Head and rule of a table.
pub(crate) const HEAD: &str = "\
| strategy | refused | in time | p50 | p99 | longest drain | most pods | pod-hours | node-hours | cost |
|---|---|---|---|---|---|---|---|---|---|";

/// Every strategy of `pool` along `curve`.
pub(crate) fn figures(pool: &Pool, curve: Curve) -> Vec<(&'static Strategy, Figures)> {
    pool.strategies.iter().map(|strategy| (strategy, world::run(pool, strategy, curve, SEED))).collect()
}

/// One row; `cost` is node-hours as a share of `whole`.
pub(crate) fn row(name: &str, figures: &Figures, whole: f64) -> String {
    let Figures { refused, in_time, p50, p99, drain, pods, pod_hours, node_hours, .. } = figures;
    format!(
        "| {name} | {} | {:.2} % | {} | {} | {} | {pods} | {pod_hours:.1} | {node_hours:.1} | {:.0} % |",
        percent(*refused),
        in_time * 100.0,
        seconds(*p50),
        seconds(*p99),
        seconds(*drain),
        node_hours / whole * 100.0
    )
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0".to_owned(),
        some if some < 0.01 => "< 0.01 %".to_owned(),
        some => format!("{some:.2} %"),
    }
}

fn seconds(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}
