//! The fast lane against hyper: the same bytes go to two gateways which are alike but for `fast_lane`, and
//! neither the client nor the server may see a difference. What the lane reads by itself, what it hands to
//! hyper at once, and what it hands to hyper in the midst must all come out the same.

mod answers;
mod requests;
mod under_way;
