import asyncio, urllib.request
from centrifuge import Client, SubscriptionEventHandler

class News(SubscriptionEventHandler):
    async def on_publication(self, context):
        print(context.pub.data)

async def get_token():
    response = await asyncio.to_thread(urllib.request.urlopen, "https://app.example.com/token")
    return response.read().decode()

async def main():
    client = Client("wss://hub.example.com/connection/websocket", get_token=get_token)
    news = client.new_subscription("news", events=News())
    await news.subscribe()
    await client.connect()
    await news.publish({"hello": "world"})
    await asyncio.Event().wait()

asyncio.run(main())
