//! What was promised altogether, by the answers alone: whatever the log says, no sale gives more than it has.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Answer, History, Request, Verdict, fold::sale_of};

/// The first answer to each code.
type ByCode<'a> = BTreeMap<&'a str, &'a Answer>;

impl History {
    /// How many items each sale has sold, by its start.
    pub fn sold_by_sale(&self) -> BTreeMap<i64, usize> {
        let mut sold: BTreeMap<i64, HashSet<&str>> = BTreeMap::new();
        for judged in &self.judged {
            if let (Some(Request::Purchase { code, .. }), Verdict::Purchased { .. }) =
                (&judged.request, &judged.verdict)
            {
                let sale = sale_of(code).expect("a code that was bought names its sale");
                sold.entry(sale).or_default().insert(code);
            }
        }
        sold.into_iter()
            .map(|(sale, codes)| (sale, codes.len()))
            .collect()
    }

    /// Sales that sold more than they had, users that bought more than one may, items and codes that went twice.
    pub(super) fn oversold(&self, answers: &[Answer]) -> Vec<String> {
        let mut lies = Vec::new();
        let (mut given, mut bought) = (ByCode::new(), ByCode::new());
        for answer in answers.iter().filter(|answer| answer.status == 200) {
            let first = match &answer.request {
                Request::Checkout { .. } => given.entry(&answer.said).or_insert(answer),
                Request::Purchase { code, .. } => bought.entry(code).or_insert(answer),
            };
            if !std::ptr::eq(*first, answer) && !is_repetition(first, answer) {
                lies.push(format!("{}: so did {}", answer.brief(), first.brief()));
            }
        }
        lies.extend(self.too_many(&given, &bought));
        lies
    }

    fn too_many(&self, given: &ByCode<'_>, bought: &ByCode<'_>) -> Vec<String> {
        let on_the_log = self.reservations();
        let mut lies = Vec::new();
        let mut items: BTreeMap<i64, HashSet<i64>> = BTreeMap::new();
        let mut users: BTreeMap<(i64, i64), i64> = BTreeMap::new();
        for (code, answer) in bought {
            // Who heard nothing of a reservation may still know its code from the log.
            let known = given.get(code).map(|answer| &answer.request);
            let known = known.or_else(|| on_the_log.get(code).copied());
            let (
                Some(Request::Checkout {
                    user_id, item_id, ..
                }),
                Some(sale),
            ) = (known, sale_of(code))
            else {
                lies.push(format!("{}: nobody reserved it", answer.brief()));
                continue;
            };
            *users.entry((sale, *user_id)).or_default() += 1;
            if !items.entry(sale).or_default().insert(*item_id) {
                lies.push(format!(
                    "{}: item {item_id} was sold before",
                    answer.brief()
                ));
            }
        }
        for (sale, items) in items {
            let max = self
                .rules_of_sales
                .get(&sale)
                .map_or(0, |rules| rules.items);
            if i64::try_from(items.len()).unwrap() > max {
                lies.push(format!(
                    "the sale of {sale} sold {} of {max} items",
                    items.len()
                ));
            }
        }
        for ((sale, user_id), count) in users {
            let max = self
                .rules_of_sales
                .get(&sale)
                .map_or(0, |rules| rules.limit);
            if count > max {
                lies.push(format!(
                    "user {user_id} bought {count} of {max} in the sale of {sale}"
                ));
            }
        }
        lies
    }

    /// Who reserved what, by code.
    fn reservations(&self) -> HashMap<&str, &Request> {
        let judged = self.judged.iter();
        judged
            .filter_map(|judged| match &judged.verdict {
                Verdict::Reserved { code, .. } => Some((code.as_str(), judged.request.as_ref()?)),
                _ => None,
            })
            .collect()
    }
}

/// The same request again, by its key.
fn is_repetition(first: &Answer, again: &Answer) -> bool {
    let (Request::Checkout { key, .. } | Request::Purchase { key, .. }) = &first.request;
    key.is_some() && first.request == again.request
}
