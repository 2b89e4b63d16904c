//! All rules that were ever set, as far as they were read: which of them hold is decided by the log of the sale.

use schemas::sale_rules::SaleRulesSet;

/// The valid events of `sale-rules`, from its start.
#[derive(Debug, Clone, Default)]
pub struct RuleBook {
    /// With their offsets, rising.
    rules: Vec<(i64, SaleRulesSet)>,
    next_offset: i64,
}

/// The book does not reach far enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sale-rules has to be read up to offset {rules_seen}")]
pub struct RulesMissing {
    /// How far it has to reach: the next offset.
    pub rules_seen: i64,
}

impl RuleBook {
    /// Adds the rules of the record at `offset`.
    pub fn set(&mut self, offset: i64, rules: SaleRulesSet) {
        if offset >= self.next_offset {
            self.rules.push((offset, rules));
            self.next_offset = offset + 1;
        }
    }

    /// Everything before `next_offset` has been read.
    pub fn pass(&mut self, next_offset: i64) {
        self.next_offset = self.next_offset.max(next_offset);
    }

    /// The next offset to read: what appenders give as `rules_seen`.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// The newest rules; the usual ones if none were ever set.
    pub fn newest(&self) -> SaleRulesSet {
        self.rules
            .last()
            .map_or_else(SaleRulesSet::default, |(_, rules)| *rules)
    }

    /// The newest rules of those that an appender had seen.
    ///
    /// # Errors
    /// If the book does not reach as far.
    pub fn newest_below(&self, rules_seen: i64) -> Result<SaleRulesSet, RulesMissing> {
        if rules_seen > self.next_offset {
            return Err(RulesMissing { rules_seen });
        }
        let count = self
            .rules
            .partition_point(|(offset, _)| *offset < rules_seen);
        let newest = self.rules[..count].last();
        Ok(newest.map_or_else(SaleRulesSet::default, |(_, rules)| *rules))
    }
}
