//! A BTCPay Server on loopback that does not distort the measurement: its answers are prepared in
//! advance, each comes after a fixed time, and it runs in a separate process. It counts what they would
//! have cost a real one.

use std::collections::HashMap;
use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::shop::{order_id, status};

pub const STORE: &str = "9CiNzKoANXxmk5ayZngSXrHTiVvvgCrwrpFQd4m2K776";
/// How long an answer takes if nothing else is said.
pub const LATENCY_MS: usize = 20;

/// Where the server tells what its answers cost.
const COST: &str = "/cost";
/// What answers cost a real server with 103,000 invoices, where one invoice by its id costs 100.
const OF_AN_INVOICE: usize = 100;
const OF_A_GROUP: usize = 160;
/// 1 for a list of one, 8 for a list of 500.
fn of_a_list(rows: usize) -> usize {
    OF_AN_INVOICE + rows * 7 / 5
}

/// The contents of a store.
#[derive(Clone, Copy)]
pub struct Store {
    candidates: usize,
    /// The number of other programs' invoices before each candidate.
    others_each: usize,
    /// Whether the list works. Without it the program requests invoices one by one.
    lists: bool,
    /// How long each answer takes.
    latency_ms: usize,
}

/// A store that is being served.
pub struct Server {
    process: Child,
    pub url: String,
}

/// A store's invoices as JSON with their times of creation, newest first.
pub struct Answers {
    invoices: Vec<(i64, String)>,
    /// By BTCPay's ids.
    places: HashMap<String, usize>,
    /// By order ids.
    ordered: HashMap<String, usize>,
    /// Of all that were given.
    cost: AtomicUsize,
}

const SERVE: &str = "serve";

/// The store that this process should serve, if it was started as a server.
pub fn asked_to_serve() -> Option<Store> {
    let mut arguments = env::args().skip_while(|argument| argument != SERVE).skip(1);
    let mut number = || arguments.next()?.parse().ok();
    Some(Store {
        candidates: number()?,
        others_each: number()?,
        lists: number()? != 0,
        latency_ms: number()?,
    })
}

impl Store {
    pub fn of_candidates(candidates: usize) -> Self {
        Self {
            candidates,
            others_each: 0,
            lists: true,
            latency_ms: LATENCY_MS,
        }
    }

    /// A store with `others_each` invoices of other programs before each candidate.
    pub fn shared(candidates: usize, others_each: usize) -> Self {
        Self {
            others_each,
            ..Self::of_candidates(candidates)
        }
    }

    pub fn without_list(candidates: usize) -> Self {
        Self {
            lists: false,
            ..Self::of_candidates(candidates)
        }
    }

    pub fn answering_after(self, latency_ms: usize) -> Self {
        Self { latency_ms, ..self }
    }

    pub fn start(self) -> Server {
        let mut process = Command::new(env::current_exe().unwrap())
            .arg(SERVE)
            .args(
                [
                    self.candidates,
                    self.others_each,
                    self.lists.into(),
                    self.latency_ms,
                ]
                .map(|n| n.to_string()),
            )
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.as_mut().unwrap())
            .read_line(&mut url)
            .unwrap();
        Server {
            process,
            url: url.trim_end().into(),
        }
    }

    /// Prints the URL and serves until killed.
    pub fn serve(self) {
        let answers = Arc::new(self.answers());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        println!("http://{}", listener.local_addr().unwrap());
        for stream in listener.incoming() {
            let answers = Arc::clone(&answers);
            thread::spawn(move || answers.talk(stream.unwrap(), self));
        }
    }

    pub fn answers(self) -> Answers {
        let mut answers = Answers {
            invoices: Vec::new(),
            places: HashMap::new(),
            ordered: HashMap::new(),
            cost: AtomicUsize::new(0),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let newest = i64::try_from(now.as_secs()).unwrap() - 3_600;
        for place in 0..self.candidates {
            let created = newest - i64::try_from(place).unwrap();
            for other in 0..self.others_each {
                answers.add(format!("web-{place}-{other}"), "4711", created, "Settled");
            }
            let order_id = order_id(place);
            answers
                .ordered
                .insert(order_id.clone(), answers.invoices.len());
            answers.add(format!("there-{place}"), &order_id, created, status(place));
        }
        answers
    }
}

impl Server {
    /// What its answers would have cost a real server, where one invoice by its id costs 1.
    pub fn cost(&self) -> f64 {
        let mut stream = TcpStream::connect(self.url.trim_start_matches("http://")).unwrap();
        write!(stream, "GET {COST} HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let cost: u32 = answer.parse().unwrap();
        f64::from(cost) / 100.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Answers {
    fn add(&mut self, id: String, order_id: &str, created: i64, status: &str) {
        let json = invoice(&id, order_id, created, status);
        self.places.insert(id, self.invoices.len());
        self.invoices.push((created, json));
    }

    /// The whole list in pages of this size.
    pub fn pages(&self, take: usize) -> Vec<String> {
        let pages = self.invoices.chunks(take);
        pages.map(list).collect()
    }

    fn talk(&self, mut stream: TcpStream, store: Store) {
        stream.set_nodelay(true).unwrap();
        let latency = Duration::from_millis(store.latency_ms.try_into().unwrap());
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        while let Some(Ok(request)) = lines.next() {
            for header in lines.by_ref() {
                if header.unwrap().is_empty() {
                    break;
                }
            }
            let path = request.split(' ').nth(1).unwrap();
            if path == COST {
                let cost = self.cost.load(Ordering::Relaxed);
                return write!(stream, "{cost}").unwrap();
            }
            let (status, body, cost) = self.answer(path, store.lists);
            self.cost.fetch_add(cost, Ordering::Relaxed);
            thread::sleep(latency);
            let head = format!(
                "HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            if stream.write_all((head + &body).as_bytes()).is_err() {
                return;
            }
        }
    }

    /// The status, the body, and what they cost.
    fn answer(&self, path: &str, lists: bool) -> (u16, String, usize) {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let id = path.rsplit('/').next().unwrap();
        if id != "invoices" {
            return (200, self.invoices[self.places[id]].1.clone(), OF_AN_INVOICE);
        }
        if !lists {
            return (500, String::new(), OF_AN_INVOICE);
        }
        let values = |name: &'static str| {
            let pairs = query.split('&');
            pairs.filter_map(move |pair| pair.strip_prefix(name))
        };
        let number = |name| {
            values(name)
                .next()
                .map(|value| value.parse::<i64>().unwrap())
        };
        let (from, to) = (
            number("startDate=").unwrap_or(0),
            number("endDate=").unwrap_or(i64::MAX),
        );
        let ordered: Vec<_> = values("orderId=")
            .filter_map(|id| self.ordered.get(id))
            .map(|place| self.invoices[*place].clone())
            .filter(|(created, _)| (from..=to).contains(created))
            .collect();
        if values("orderId=").next().is_some() {
            return (200, list(&ordered), OF_A_GROUP);
        }
        let newest = self.invoices.partition_point(|(created, _)| *created > to);
        let oldest = self
            .invoices
            .partition_point(|(created, _)| *created >= from);
        let take = usize::try_from(number("take=").unwrap()).unwrap();
        let rows = &self.invoices[newest..oldest.min(newest + take)];
        (200, list(rows), of_a_list(rows.len()))
    }
}

fn list(invoices: &[(i64, String)]) -> String {
    let invoices: Vec<&str> = invoices.iter().map(|(_, json)| json.as_str()).collect();
    format!("[{}]", invoices.join(","))
}

/// As long as a real invoice.
fn invoice(id: &str, order_id: &str, created: i64, status: &str) -> String {
    let paid = if status == "Settled" { "0.00021" } else { "0" };
    // One that became invalid by itself was paid, and needs attention.
    let additional = if status == "Invalid" {
        "Marked"
    } else {
        "None"
    };
    format!(
        r#"{{"id":"{id}","storeId":"{STORE}","amount":"0.00021","paidAmount":"{paid}","currency":"BTC","type":"Standard","checkoutLink":"https://btcpay.example.com/i/{id}","createdTime":{created},"expirationTime":1795000900,"monitoringExpiration":1795087300,"status":"{status}","additionalStatus":"{additional}","availableStatusesForManualMarking":["Settled","Invalid"],"archived":false,"metadata":{{"orderId":"{order_id}","orderUrl":"https://shop.example.com/orders/4711","itemDesc":"One license of the product, for one year","buyerEmail":"somebody@example.com","posData":{{"cart":[{{"id":"pro","count":1,"price":{{"type":2,"formatted":"0.00021 BTC","value":0.00021}}}}],"customAmount":0,"discountPercentage":0}}}},"checkout":{{"speedPolicy":"MediumSpeed","paymentMethods":["BTC-CHAIN","BTC-LN"],"defaultPaymentMethod":null,"lazyPaymentMethods":null,"expirationMinutes":15,"monitoringMinutes":1440,"paymentTolerance":0.0,"redirectURL":"https://shop.example.com/thanks","redirectAutomatically":false,"defaultLanguage":null}},"receipt":{{"enabled":null,"showQR":null,"showPayments":null}}}}"#
    )
}
