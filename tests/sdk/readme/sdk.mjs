import { Centrifuge, UnauthorizedError } from "centrifuge"

const client = new Centrifuge("wss://hub.example.com/connection/websocket", {
  // Called for the first token, and for a new one before that expires.
  getToken: async () => {
    const response = await fetch("https://app.example.com/token")
    if (response.status === 401) throw new UnauthorizedError("logged out")   // stops; after any other error the SDK tries again
    return response.text()
  },
})
const news = client.newSubscription("news")
news.on("publication", ({ data }) => console.log(data))
news.on("subscribed", () => news.publish({ hello: "world" }).catch(console.error))   // channels.allow_publish permits it
news.subscribe()
client.connect()
