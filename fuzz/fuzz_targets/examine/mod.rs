//! Walks and checks what the inspector can open, and holds the walk to its rules.

pub mod input;

use input::open;
use snapinspect::check::Checker;
use snapinspect::input::OpenOptions;
use snapinspect::walk::{Context, Finding, Flow, Item, Visitor, walk};
use std::ops::ControlFlow;

/// A walk that gives every event to `take`.
pub struct Walk<'a> {
    next: u64,
    /// What was found.
    pub findings: Vec<Finding>,
    take: &'a mut dyn FnMut(&Item<'_>),
}

impl Visitor for Walk<'_> {
    fn item(&mut self, item: &Item<'_>, _: Context<'_>) -> Flow {
        assert_eq!(item.offset, self.next, "a gap, or a piece twice: {:?}", self.findings);
        self.next = item.offset + item.length;
        (self.take)(item);
        ControlFlow::Continue(())
    }

    fn finding(&mut self, finding: Finding) -> Flow {
        assert!(!finding.text.contains(['\x1b', '\n', '\r']), "not escaped: {finding:?}");
        self.findings.push(finding);
        ControlFlow::Continue(())
    }
}

/// Walks over everything: no gap, no byte twice, to the last one. Then checks it. Returns what the
/// walk found.
pub fn examine(bytes: &[u8], options: &OpenOptions, mut take: impl FnMut(&Item<'_>)) -> Option<Vec<Finding>> {
    let opened = open(bytes, options).ok()?;
    let packed = !opened.wrappers.is_empty();
    let image = opened.image.is_some();
    let mut visitor = Walk { next: opened.start, findings: Vec::new(), take: &mut take };
    let walked = walk(opened, options, &mut visitor, None);
    if !packed && !image {
        walked.expect("memory can be read");
        assert_eq!(visitor.next, bytes.len() as u64, "{:?}", visitor.findings);
    }
    let findings = visitor.findings;
    let mut quiet = |_| {};
    let opened = open(bytes, options).expect("opened before");
    let mut checker = Checker::new(&opened, &mut quiet);
    if walk(opened, options, &mut checker, None).is_ok() {
        checker.finish();
    }
    Some(findings)
}
