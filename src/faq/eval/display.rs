//! A report and a comparison as text for a terminal.

use super::{Accuracy, Comparison, Interval, RANKS, Report};
use std::fmt;
use std::time::Duration;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<14} {:>9} {:>7} {:>7} {:>7} {:>9} {:>7}",
            "source", "questions", "acc@1", "acc@3", "acc@10", "mean rank", "MRR"
        )?;
        for (source, accuracy) in &self.sources {
            row(accuracy, f, source)?;
        }
        row(&self.overall, f, "all")?;
        writeln!(
            f,
            "95 % intervals: accuracy@1 {}, mean rank {}",
            self.accuracy_interval, self.rank_interval
        )?;
        write!(f, "accuracy@1..{RANKS}:")?;
        self.overall.at.iter().try_for_each(|found| write!(f, " {found:.3}"))?;
        writeln!(f, "\nECE {:.4}   Brier {:.4}", self.calibration_error, self.brier)?;
        self.scope(f)?;
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let (p50, p99) = (micros(self.p50), micros(self.p99));
        write!(f, "one thread: p50 {p50:.1} us, p99 {p99:.1} us, ")?;
        let (alone, batched) = (self.per_second, self.batched_per_second);
        write!(f, "{alone:.0} questions/s one at a time, {batched:.0} from a long queue")
    }
}

impl Report {
    fn scope(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gate = &self.gate;
        write!(
            f,
            "threshold {:.3} keeps {:.3} of right answers, {:.3} of wrong ones",
            gate.threshold, gate.right, gate.wrong
        )?;
        if let Some((outside, auroc)) = gate.outside.zip(self.out_of_scope_auroc) {
            write!(f, ", {outside:.3} of out-of-scope questions (AUROC {auroc:.4})")?;
        }
        writeln!(f)
    }
}

fn row(accuracy: &Accuracy, f: &mut fmt::Formatter<'_>, source: &str) -> fmt::Result {
    let Accuracy { questions, at, mean_rank, reciprocal_rank } = accuracy;
    writeln!(
        f,
        "{source:<14} {questions:>9} {:>7.4} {:>7.4} {:>7.4} {mean_rank:>9.3} {reciprocal_rank:>7.4}",
        at[0], at[2], at[9]
    )
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4} to {:.4}", self.low, self.high)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "accuracy@1 {:+.4} (95 % {})", self.accuracy, self.accuracy_interval)?;
        writeln!(f, "mean rank {:+.4} (95 % {})", self.mean_rank, self.rank_interval)?;
        write!(f, "{} only the first answered right, {} only the second", self.only_first, self.only_second)
    }
}
