import { Centrifuge, UnauthorizedError } from "centrifuge"

const client = new Centrifuge("wss://hub.example.com/connection/websocket", {
  // Asked for the first token, and for a newer one before that expires.
  getToken: async () => {
    const answer = await fetch("https://app.example.com/token")
    if (answer.status === 401) throw new UnauthorizedError("logged out")   // the end; after any other error it asks again
    return answer.text()
  },
})
const news = client.newSubscription("news")
news.on("publication", ({ data }) => console.log(data))
news.on("subscribed", () => news.publish({ hello: "world" }))
news.subscribe()
client.connect()
