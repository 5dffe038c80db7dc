//! Redis and what speaks its protocol (Valkey, KeyDB): commands, pipelined or not, and their replies.
//!
//! An exchange is a command with its reply, named by the command and, where it holds several, its sub-command; a ping is one only if
//! it fails. What the server pushes answers nothing. Format: Redis' "RESP protocol specification", versions 2 and 3. Invariant: no
//! key, no value and no argument comes out but the number of a database.

mod wire;

use crate::pending::Pair;
use crate::{Chunk, Exchange, Fifo, Found, Kind, Message, Moment, Protocol, Side, Stream};
use ollystack_record::attribute::string;
use ollystack_schema::names::semconv;
use wire::{Command, Replies, Reply};

/// Errors that are no fault of who asks.
const FAULTS_OF_SERVER: [&str; 9] =
    ["BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN"];

/// A connection.
#[derive(Debug, Default)]
pub(crate) struct Redis {
    requests: Stream,
    responses: Stream,
    waiting: Fifo<Command, Option<String>>,
    /// What follows is no commands: the feed of a monitor or of a replica.
    is_silent: bool,
    /// The server may push messages in place of replies.
    is_subscribed: bool,
    replies: Replies,
    database: Option<String>,
}

impl Protocol for Redis {
    fn take(&mut self, chunk: &Chunk<'_>, found: &mut Found) {
        if self.is_silent {
            return;
        }
        if chunk.from == Side::Client {
            let is_behind = !self.responses.is_in_step() || !self.requests.continues(chunk);
            if chunk.is_turn && is_behind {
                // Commands or replies were missed: which belong together is not known any more.
                self.waiting.gap(found);
            }
            let mut requests = std::mem::take(&mut self.requests);
            requests.walk(chunk, wire::measure_request, |message| self.request(&message, found));
            self.requests = requests;
            return;
        }
        if chunk.is_turn && self.waiting.is_empty() && self.requests.held_bytes() > 0 {
            // A command whose end is not to be seen is answered.
            if let Some((bytes, began)) = self.requests.give_up() {
                self.request(&Message { bytes: &bytes, length: bytes.len() as u32 + 1, began, at: began }, found);
            }
        }
        if self.responses.is_in_step() && !self.responses.continues(chunk) {
            self.give_up(found);
            self.waiting.gap(found);
        }
        let mut responses = std::mem::take(&mut self.responses);
        responses.walk(chunk, wire::measure_response, |message| self.response(message.bytes, message.began, found));
        self.responses = responses;
    }

    fn gap(&mut self, found: &mut Found) {
        self.requests.lose();
        self.responses.lose();
        self.waiting.gap(found);
    }

    fn end(&mut self, found: &mut Found) {
        self.give_up(found);
        self.waiting.end(found);
    }
}

impl Redis {
    /// Memory that it holds, in bytes.
    #[cfg(feature = "fuzz")]
    pub(crate) fn held_bytes(&self) -> usize {
        let command = size_of::<(u64, Moment, Command)>() + wire::NAME_BYTES_MAX;
        self.requests.held_bytes() + self.responses.held_bytes() + self.waiting.len() * command
    }

    /// A reply whose end is not to be seen.
    fn give_up(&mut self, found: &mut Found) {
        if let Some((bytes, began)) = self.responses.give_up() {
            self.response(&bytes, began, found);
        }
    }

    /// A command.
    fn request(&mut self, message: &Message<'_>, found: &mut Found) {
        let Some(command) = wire::command(message.bytes) else { return };
        self.is_subscribed |= command.is_subscription;
        let replies = self.replies;
        match command.replies {
            Some(wanted) => self.replies = wanted,
            None if replies == Replies::Skip => self.replies = Replies::On,
            None => {}
        }
        // Switched off or over, this command is not answered either.
        if self.replies == Replies::Off || command.replies == Some(Replies::Skip) || replies == Replies::Skip {
            let at = message.began;
            return self.found(((at, command), (at, None)), found);
        }
        if let Some(pair) = self.waiting.ask(0, message.began, command, found) {
            self.found(pair, found);
        }
    }

    /// A reply, or what the server pushes.
    fn response(&mut self, bytes: &[u8], began: Moment, found: &mut Found) {
        let is_wanted = self.waiting.oldest(0).is_some_and(|command| command.is_subscription);
        let error = match wire::reply(bytes, self.is_subscribed) {
            Reply::Push => return,
            // Each channel is confirmed, but there is one command.
            Reply::Confirmation if !is_wanted => return,
            Reply::Confirmation | Reply::Fine => None,
            Reply::Error(prefix) => Some(prefix),
        };
        if let Some(pair) = self.waiting.answer(0, began, error, found) {
            self.found(pair, found);
        }
    }

    fn found(&mut self, ((asked, command), (answered, error)): Pair<Command, Option<String>>, found: &mut Found) {
        if error.is_none() {
            self.is_silent |= command.is_feed;
            self.database = command.database.or(self.database.take());
            if command.is_ping {
                return;
            }
        }
        let mut attributes = Vec::with_capacity(4);
        attributes.push(string(semconv::DB_SYSTEM_NAME, "redis"));
        attributes.push(string(semconv::DB_OPERATION_NAME, command.name.clone()));
        attributes.extend(self.database.as_ref().map(|database| string(semconv::DB_NAMESPACE, database.clone())));
        attributes.extend(error.as_ref().map(|prefix| string(semconv::DB_RESPONSE_STATUS_CODE, prefix.clone())));
        found.exchanges.push(Exchange {
            name: command.name,
            kind: Kind::Call,
            asked,
            answered,
            attributes,
            is_fault_of_client: error.as_ref().is_some_and(|prefix| !FAULTS_OF_SERVER.contains(&prefix.as_str())),
            error: error.map(Into::into),
            context: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WAITING_MAX;
    use crate::play::Play;
    use ollystack_ebpf::sniff;
    use ollystack_record::attribute::string_attribute;

    fn command(words: &[&str]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", words.len());
        for word in words {
            bytes.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        bytes.into_bytes()
    }

    fn ask(play: &mut Play, words: &[&str], reply: &str) {
        play.client(&command(words));
        play.server(reply.as_bytes());
    }

    #[test]
    fn a_command_is_told_by_the_conventions_and_without_keys_and_values() {
        let mut play = Play::new(sniff::REDIS);
        ask(&mut play, &["select", "3"], "+OK\r\n");
        ask(&mut play, &["set", "secret:key", "secret"], "-OOM command not allowed 'secret'\r\n");
        assert_eq!(play.told(), ["SELECT", "SET OOM"]);
        let exchange = &play.exchanges()[1];
        let table = [
            (semconv::DB_SYSTEM_NAME, "redis"),
            (semconv::DB_OPERATION_NAME, "SET"),
            (semconv::DB_NAMESPACE, "3"),
            (semconv::DB_RESPONSE_STATUS_CODE, "OOM"),
        ];
        for (key, value) in table {
            assert_eq!(string_attribute(&exchange.attributes, key), Some(value), "{key}");
        }
        assert_eq!(exchange.attributes.len(), table.len());
        assert!(!format!("{exchange:?}").contains("secret"));
    }

    #[test]
    fn errors_have_their_first_word_in_both_versions_and_within_transactions() {
        let table = [
            ("-WRONGTYPE Operation against a key\r\n", "GET WRONGTYPE (client)"),
            ("-MOVED 3999 127.0.0.1:6381\r\n", "GET MOVED (client)"),
            ("-LOADING Redis is loading\r\n", "GET LOADING"),
            ("-what is this\r\n", "GET ERR (client)"),
            ("!21\r\nSYNTAX invalid syntax\r\n", "GET SYNTAX (client)"),
            ("*3\r\n+OK\r\n*1\r\n:1\r\n-WRONGTYPE no\r\n", "GET WRONGTYPE (client)"),
            ("|1\r\n+ttl\r\n:5\r\n-ERR no\r\n", "GET ERR (client)"),
            ("*2\r\n$4\r\n-ERR\r\n*1\r\n-ERR deep\r\n", "GET"),
            ("%1\r\n+a\r\n~2\r\n#t\r\n,1.5\r\n", "GET"),
            ("=7\r\ntxt:abc\r\n", "GET"),
            ("(3492890328409238509324850943850943825024385\r\n", "GET"),
            ("_\r\n", "GET"),
            ("*-1\r\n", "GET"),
        ];
        for (reply, told) in table {
            let mut play = Play::new(sniff::REDIS);
            ask(&mut play, &["GET", "a"], reply);
            ask(&mut play, &["TTL", "a"], ":1\r\n");
            assert_eq!(play.told(), [told, "TTL"], "{reply}");
        }
    }

    #[test]
    fn names_are_commands_and_what_is_none_is_not_one() {
        let mut play = Play::new(sniff::REDIS);
        ask(&mut play, &["config", "get", "x"], "*0\r\n");
        ask(&mut play, &["CLIENT", "LIST"], "+\r\n");
        ask(&mut play, &["CONFIG"], "-ERR wrong number\r\n");
        ask(&mut play, &["CONFIG", "secret key"], "-ERR no\r\n");
        ask(&mut play, &["JSON.SET", "k", "$", "{}"], "+OK\r\n");
        assert_eq!(
            play.told(),
            ["CONFIG GET", "CLIENT LIST", "CONFIG ERR (client)", "CONFIG ERR (client)", "JSON.SET"]
        );
    }

    #[test]
    fn inline_commands_are_read_by_their_lines() {
        let mut play = Play::new(sniff::REDIS);
        play.client(b"config get x\r\nGET a\n\r\n");
        play.server(b"*0\r\n$-1\r\n");
        play.client(b"SET secret 1\r\n");
        play.server(b"+OK\r\n");
        assert_eq!(play.told(), ["CONFIG GET", "GET", "SET"]);
    }

    #[test]
    fn pipelines_are_answered_in_order_also_longer_ones_than_are_kept() {
        let mut play = Play::new(sniff::REDIS);
        let count = WAITING_MAX + 10;
        for _ in 0..count {
            play.client(&command(&["SET", "a", "1"]));
        }
        play.client(&command(&["GET", "a"]));
        play.server(&b"+OK\r\n".repeat(count));
        play.server(b"-WRONGTYPE no\r\n");
        assert_eq!((play.told().len(), play.told().last().unwrap().as_str()), (WAITING_MAX, "GET WRONGTYPE (client)"));
        assert_eq!((play.found().over_limit, play.found().unpaired), (11, 0));
    }

    #[test]
    fn values_are_stepped_over_however_long_and_whatever_is_in_them() {
        let mut play = Play::new(sniff::REDIS);
        play.client_cut(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$100000\r\n*1\r\n", 60_000);
        play.client(&command(&["DEL", "b"]));
        play.client_cut(b"x", 100_000 - 60_000 + 29 + 2 - command(&["DEL", "b"]).len() as u32);
        play.server(b"+OK\r\n");
        play.client(&command(&["GET", "a"]));
        play.server_cut(b"$100000\r\n-ERR\r\n", 60_000);
        play.server(b"-ERR no\r\n");
        play.skip(Side::Server, 100_011 - 60_009);
        ask(&mut play, &["TTL", "a"], ":1\r\n");
        assert_eq!(play.told(), ["SET", "GET", "TTL"]);
    }

    #[test]
    fn what_is_pushed_answers_nothing() {
        let mut play = Play::new(sniff::REDIS);
        let message = "$7\r\nmessage\r\n$1\r\na\r\n$5\r\nhello\r\n";
        let confirm = |kind: &str, left: u8| format!("3\r\n${}\r\n{kind}\r\n$1\r\na\r\n:{left}\r\n", kind.len());
        for kind in ["*", ">"] {
            play.client(&command(&["SUBSCRIBE", "a", "b"]));
            play.server(format!("{kind}{}{kind}{}", confirm("subscribe", 1), confirm("subscribe", 2)).as_bytes());
            play.server(format!("{kind}3\r\n{message}").as_bytes());
            play.client(&command(&["PING"]));
            play.server(format!("{kind}3\r\n{message}*2\r\n$4\r\npong\r\n$0\r\n\r\n").as_bytes());
            play.client(&command(&["UNSUBSCRIBE"]));
            play.server(format!("{kind}{}{kind}{}", confirm("unsubscribe", 1), confirm("unsubscribe", 0)).as_bytes());
            ask(&mut play, &["GET", "a"], "$-1\r\n");
        }
        play.server(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n");
        assert_eq!(play.told(), ["SUBSCRIBE", "UNSUBSCRIBE", "GET", "SUBSCRIBE", "UNSUBSCRIBE", "GET"]);
        assert_eq!(play.found().unpaired, 0);
    }

    #[test]
    fn feeds_end_what_is_read() {
        for feed in ["MONITOR", "PSYNC"] {
            let mut play = Play::new(sniff::REDIS);
            ask(&mut play, &[feed], "+OK\r\n");
            play.server(b"+1700000000.1 [0 127.0.0.1:1] \"GET\" \"secret\"\r\n");
            ask(&mut play, &["GET", "a"], "$-1\r\n");
            assert_eq!((play.told(), play.found().unpaired), (vec![feed.to_owned()], 0));
        }
    }

    #[test]
    fn commands_whose_replies_are_off_are_answered_at_once() {
        let mut play = Play::new(sniff::REDIS);
        play.client(&[command(&["CLIENT", "REPLY", "OFF"]), command(&["SET", "a", "1"])].concat());
        ask(&mut play, &["CLIENT", "REPLY", "ON"], "+OK\r\n");
        play.client(
            &[command(&["CLIENT", "REPLY", "SKIP"]), command(&["SET", "a", "1"]), command(&["GET", "a"])].concat(),
        );
        play.server(b"$1\r\n1\r\n");
        let reply = "CLIENT REPLY";
        assert_eq!(play.told(), [reply, "SET", reply, reply, "SET", "GET"]);
        let at_once: Vec<_> = play.exchanges().iter().map(|it| it.asked == it.answered).collect();
        assert_eq!(at_once, [true, true, false, true, true, false]);
    }

    #[test]
    fn a_ping_is_told_if_it_fails() {
        let mut play = Play::new(sniff::REDIS);
        ask(&mut play, &["PING"], "+PONG\r\n");
        ask(&mut play, &["PING"], "-NOAUTH Authentication required.\r\n");
        assert_eq!(play.told(), ["PING NOAUTH (client)"]);
    }

    #[test]
    fn what_was_missed_is_joined_to_nothing() {
        let mut play = Play::new(sniff::REDIS);
        // More commands than are copied: their number is not known.
        play.client_cut(&command(&["GET", "a"]), 1_000);
        play.server(b"$1\r\n1\r\n-ERR of another\r\n");
        ask(&mut play, &["SET", "a", "1"], "+OK\r\n");
        assert_eq!(play.told(), ["GET", "SET"]);
        // Calls of an answer that are not told.
        play.client(&[command(&["GET", "a"]), command(&["GET", "b"])].concat());
        play.server(b"$1\r\n1\r\n");
        play.skip(Side::Server, 7);
        play.client(&command(&["TTL", "a"]));
        play.server(b":1\r\n");
        assert_eq!((play.told().len(), play.found().lost), (3, 2));
    }
}
