// What people say about boats, in JavaScript: a handler of fetch events, as in a browser's service worker.
//
// GET  /reviews/NAME    the product's reviews, with their mean of stars
// POST /reviews/NAME    {"stars": 1–5, "text": "…"}: says how the mean would move. Nothing is kept: each
//                       request has an instance of its own.
// GET  /delivered/NAME  the reviews and what sending one boat to Britain costs, which the Service
//                       `shipping` knows

const REVIEWS = {
  coracle: [
    { stars: 5, text: "Carried it home on my back." },
    { stars: 4, text: "Spins, but so do I." },
  ],
  paddle: [{ stars: 3, text: "It is a paddle." }],
};
const MOST_TEXT = 2000;

const json = (body, status = 200) =>
  new Response(JSON.stringify(body) + "\n", { status, headers: { "content-type": "application/json" } });
const problem = (status, text) => json({ error: text }, status);
const mean = (reviews) => reviews.reduce((sum, { stars }) => sum + stars, 0) / reviews.length;

async function answer(request) {
  const [, what, name] = new URL(request.url).pathname.split("/");
  const reviews = Object.hasOwn(REVIEWS, name) ? REVIEWS[name] : undefined;
  if (!["reviews", "delivered"].includes(what) || !reviews) return problem(404, "no such product");

  if (what === "delivered") {
    const shipping = await fetch("http://shipping/quote?items=1&to=GB");
    if (!shipping.ok) return problem(502, `shipping answered ${shipping.status}`);
    return json({ product: name, stars: mean(reviews), shipping: await shipping.json() });
  }
  if (request.method === "GET") return json({ product: name, stars: mean(reviews), reviews });
  if (request.method !== "POST") return problem(405, "GET or POST");

  let review;
  try {
    review = await request.json();
  } catch {
    return problem(400, "the body is not JSON");
  }
  if (!Number.isInteger(review?.stars) || review.stars < 1 || review.stars > 5) return problem(400, "stars: 1 to 5");
  if (typeof review.text !== "string" || review.text.length > MOST_TEXT) return problem(400, "text: a string, not long");
  return json({ product: name, stars: mean(reviews), then: mean([...reviews, review]) });
}

addEventListener("fetch", (event) => event.respondWith(answer(event.request)));
