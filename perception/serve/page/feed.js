// The newest frame, again and again: asked for only when the last one has been shown, so nothing ever piles up.

// bytes of /next (view.py) -> {seq, record, status, points, bitmap, maps: {head: {hw, ids: Uint8Array}}, ...}
async function parse(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const message = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  const take = (bytes) => new Uint8Array(buffer, (at += bytes) - bytes, bytes);
  message.bitmap = await createImageBitmap(new Blob([take(message.image.bytes)], { type: "image/jpeg" }));
  const maps = {};
  for (const { head, bytes, hw } of message.maps) {
    const stream = new Blob([take(bytes)]).stream().pipeThrough(new DecompressionStream("deflate"));
    maps[head] = { hw, ids: new Uint8Array(await new Response(stream).arrayBuffer()) };
  }
  message.maps = maps;
  return message;
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export class Feed {
  // show(message) is awaited before the next one is asked for; say(state) is live, waiting, ended or lost
  constructor(show, say) {
    this.show = show;
    this.say = say;
    this.paused = false;
    this.after = -1;
    this.resume = () => {};
    document.addEventListener("visibilitychange", () => this.resume());
  }

  pause(paused) {
    this.paused = paused;
    this.resume();
  }

  async run() {
    for (;;) {
      while (this.paused || document.hidden) await new Promise((done) => { this.resume = done; });
      try {
        const answer = await fetch(`next?after=${this.after}`, { cache: "no-store" });
        if (answer.status === 204) { this.say("waiting"); continue; }
        if (!answer.ok) throw new Error(answer.status === 410 ? "ended" : "lost");
        const message = await parse(await answer.arrayBuffer());
        if (this.paused) { message.bitmap.close(); continue; }
        this.after = message.seq;
        this.say("live");
        await this.show(message);
      } catch (error) {
        this.say(error.message === "ended" ? "ended" : "lost");
        this.after = -1; // whoever answers next may be another run
        await sleep(1500);
      }
    }
  }
}
