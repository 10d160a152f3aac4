import { Centrifuge } from "centrifuge"

const token = await (await fetch("https://app.example.com/token")).text()
const client = new Centrifuge(`wss://hub.example.com/connection/websocket?token=${token}`)
client.on("publication", ({ channel, data }) => console.log(channel, data))   // of channels that the token brings
client.connect()
await client.publish("news", { hello: "world" })
