//! Puts a plan together: activations are numbered while steps are added, and get their slots of memory when all uses are
//! known.

use super::super::arch::{BlockSpec, ConvSpec, Shortcut};
use super::{Op, Plan, Shape, Step, Value, Window};

/// A plan in the making: activations are named by index.
pub(super) struct Builder {
    shapes: Vec<Shape>,
    steps: Vec<Draft>,
}

/// A step whose activations have no slots yet.
struct Draft {
    name: String,
    op: Op,
    input: usize,
    addend: Option<usize>,
    output: usize,
}

impl Builder {
    pub(super) fn new(image: Shape) -> Self {
        Self { shapes: vec![image], steps: Vec::new() }
    }

    pub(super) fn image(&self) -> usize {
        0
    }

    /// Appends a step; `channels` where its output has other channels than its input.
    pub(super) fn add(
        &mut self,
        name: &str,
        op: Op,
        input: usize,
        addend: Option<usize>,
        channels: Option<usize>,
    ) -> usize {
        let Shape { height, width, channels: inputs } = self.shapes[input];
        let (height, width) = match op {
            Op::Conv { window, .. } | Op::MaxPool { window } => (window.along(height), window.along(width)),
            Op::AveragePool => (1, 1),
        };
        self.shapes.push(Shape { height, width, channels: channels.unwrap_or(inputs) });
        let output = self.shapes.len() - 1;
        self.steps.push(Draft { name: name.into(), op, input, addend, output });
        output
    }

    pub(super) fn conv(&mut self, spec: &ConvSpec, input: usize, addend: Option<usize>) -> usize {
        let Shape { height, width, .. } = self.shapes[input];
        debug_assert_eq!(height, width, "one padding serves both directions of a square picture");
        let pad = spec.window.before(height);
        let window = Window { kernel: spec.window.kernel, stride: spec.window.stride, pad };
        let op = Op::Conv { window, depthwise: spec.depthwise, activation: spec.activation };
        self.add(&spec.name, op, input, addend, Some(spec.outputs))
    }

    /// The projection comes late, so that it does not lie in memory while the branch is computed.
    pub(super) fn block(&mut self, block: &BlockSpec, x: usize) -> usize {
        let (last, first) = block.branch.split_last().expect("bug: a block has convolutions");
        let y = first.iter().fold(x, |y, conv| self.conv(conv, y, None));
        let shortcut = match &block.shortcut {
            Shortcut::None => None,
            Shortcut::Identity => Some(x),
            Shortcut::Projection(conv) => Some(self.conv(conv, x, None)),
        };
        self.conv(last, y, shortcut)
    }

    /// The step that reads an activation last. What an inverted bottleneck starts from is kept until it ends, so that a
    /// device may take its steps some rows at a time.
    fn last_use(&self, value: usize) -> usize {
        let uses = |step: &Draft| step.input == value || step.addend == Some(value) || step.output == value;
        let last = self.steps.iter().rposition(uses).expect("bug: a step made it");
        if self.is_depthwise(last + 1) { last + 2 } else { last }
    }

    fn is_depthwise(&self, step: usize) -> bool {
        self.steps.get(step).is_some_and(|step| matches!(step.op, Op::Conv { depthwise: true, .. }))
    }

    /// The longest head: only its last output is read later, and all its steps move more activations than weights.
    fn head(&self) -> usize {
        let moves_more = |step: &&Draft| {
            let step = self.place(step, &|value| Value { slot: 0, shape: self.shapes[value] });
            step.traffic() > step.parameters()
        };
        let most = self.steps.iter().take_while(moves_more).count();
        let read_later = |end: usize| {
            let later = self.steps[end..].iter().flat_map(|step| [Some(step.input), step.addend]);
            later.flatten().filter(move |&value| value <= self.steps[end - 1].output).collect::<Vec<_>>()
        };
        let whole = |&end: &usize| read_later(end).iter().all(|&value| value == self.steps[end - 1].output);
        (1..=most).rev().find(whole).unwrap_or(0)
    }

    fn place(&self, draft: &Draft, value: &impl Fn(usize) -> Value) -> Step {
        let (input, output) = (value(draft.input), value(draft.output));
        Step { name: draft.name.clone(), op: draft.op, input, addend: draft.addend.map(value), output }
    }

    pub(super) fn finish(self, name: &str) -> Plan {
        let head = self.head();
        let last: Vec<usize> = (1..self.shapes.len()).map(|value| self.last_use(value)).collect();
        let dies = |value: usize, at: usize| value != self.image() && last[value - 1] == at;
        let mut slots = Slots::new(self.shapes[self.image()]);
        let mut place = vec![0; self.shapes.len()];
        let mut steps = Vec::with_capacity(self.steps.len());
        for (at, draft) in self.steps.iter().enumerate() {
            let shape = self.shapes[draft.output];
            let leaves_head = at + 1 == head;
            let ends_bottleneck = at > 0 && self.is_depthwise(at - 1);
            let reused = draft.addend.filter(|&addend| dies(addend, at) && !leaves_head && !ends_bottleneck);
            place[draft.output] = match reused {
                Some(addend) => place[addend],
                None if leaves_head => slots.add(shape.elements()),
                None => slots.take(shape.elements()),
            };
            let dead = (0..self.shapes.len()).filter(|&value| dies(value, at) && Some(value) != reused);
            slots.free.extend(dead.map(|value| place[value]));
            let value = |value: usize| Value { slot: place[value], shape: self.shapes[value] };
            steps.push(self.place(draft, &value));
        }
        Plan { name: name.into(), steps, slots: slots.sizes, head }
    }
}

/// Slots handed out so far.
struct Slots {
    sizes: Vec<usize>,
    free: Vec<usize>,
}

impl Slots {
    fn new(image: Shape) -> Self {
        Self { sizes: vec![image.elements()], free: Vec::new() }
    }

    /// The smallest free slot that is large enough, or the largest one made larger, or a new one.
    fn take(&mut self, elements: usize) -> usize {
        let key = |&at: &usize| {
            let size = self.sizes[self.free[at]];
            if size >= elements { (0, size) } else { (1, usize::MAX - size) }
        };
        let Some(at) = (0..self.free.len()).min_by_key(key) else {
            return self.add(elements);
        };
        let slot = self.free.swap_remove(at);
        self.sizes[slot] = self.sizes[slot].max(elements);
        slot
    }

    fn add(&mut self, elements: usize) -> usize {
        self.sizes.push(elements);
        self.sizes.len() - 1
    }
}
