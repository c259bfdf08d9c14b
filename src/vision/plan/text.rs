//! A plan's parts in a few characters each.

use std::fmt;

use super::super::arch::Activation;
use super::{Op, Plan, Shape, Step, Window};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (steps, macs) = (self.steps.len(), self.macs() as f64 / 1e6);
        let parameters = self.steps.iter().map(Step::parameters).sum::<usize>() as f64 / 1e6;
        let elements = self.slots.iter().sum::<usize>() as f64 / 1e6;
        write!(
            f,
            "{}: {steps} steps on {}, {macs:.1} million multiply-adds, {parameters:.2} million parameters, \
             {elements:.2} million elements in {} slots an image",
            self.name,
            self.input(),
            self.slots.len()
        )
    }
}

impl Step {
    /// What is done: `conv 1x1/1 bias shortcut relu`.
    pub fn operation(&self) -> String {
        let op = self.op.to_string();
        if self.addend.is_some() { op.replacen(" bias", " bias shortcut", 1) } else { op }
    }

    /// From which slots to which: `1 + 2 > 2`.
    pub fn slots(&self) -> String {
        let addend = self.addend.map(|addend| format!(" + {}", addend.slot)).unwrap_or_default();
        format!("{}{addend} > {}", self.input.slot, self.output.slot)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Conv { window, depthwise, activation } => {
                let kind = if *depthwise { "depthwise" } else { "conv" };
                write!(f, "{kind} {window} bias{activation}")
            }
            Op::MaxPool { window } => write!(f, "max {window}"),
            Op::AveragePool => write!(f, "mean"),
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{0}x{0}/{1}", self.kernel, self.stride)
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Activation::Linear => "",
            Activation::Relu => " relu",
            Activation::Relu6 => " relu6",
        })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.height, self.width, self.channels)
    }
}
